import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Threads that compute (so the JIT compiles them), threads that make garbage (so the collector
 * runs), and timers. Ends when a file named "finish" appears, and then checks every result.
 */
public final class Counting {
    private static final int WORKERS = 6;
    private static final AtomicBoolean finish = new AtomicBoolean();

    /** One step of a sequence that depends on all steps before it. */
    private static long step(long value, long n) {
        value ^= n * 0x9E3779B97F4A7C15L;
        value = Long.rotateLeft(value, 23) * 0xBF58476D1CE4E5B9L;
        return value ^ (value >>> 29);
    }

    /** Counts and mixes until told to end; a second pass over the same steps must agree. */
    private static final class Mixer extends Thread {
        volatile long steps;
        long value;

        @Override
        public void run() {
            long n = 0;
            while (!finish.get()) {
                for (int i = 0; i < 10_000; i++) {
                    value = step(value, n++);
                }
                steps = n;
                Thread.onSpinWait();
                if (n % 1_000_000 == 0) {
                    pause();
                }
            }
        }

        boolean isRight() {
            long again = 0;
            for (long n = 0; n < steps; n++) {
                again = step(again, n);
            }
            return again == value;
        }
    }

    /** Keeps a window of fresh objects, each of which knows what it has to hold. */
    private static final class Churner extends Thread {
        long made;
        boolean right = true;

        @Override
        public void run() {
            ArrayDeque<int[]> window = new ArrayDeque<>();
            while (!finish.get()) {
                int[] piece = new int[4096];
                java.util.Arrays.fill(piece, (int) made);
                window.add(piece);
                made++;
                if (window.size() > 256) {
                    long expected = made - window.size();
                    int[] old = window.poll();
                    right &= old[0] == (int) expected && old[4095] == (int) expected;
                    if (made % 64 == 0) {
                        pause();
                    }
                }
            }
        }
    }

    private static void pause() {
        try {
            Thread.sleep(5);
        } catch (InterruptedException unexpected) {
            throw new IllegalStateException("sleep was interrupted", unexpected);
        }
    }

    public static void main(String[] args) throws Exception {
        AtomicLong timer = new AtomicLong();
        ScheduledExecutorService timers = Executors.newScheduledThreadPool(2);
        timers.scheduleAtFixedRate(timer::incrementAndGet, 0, 20, TimeUnit.MILLISECONDS);
        List<Mixer> mixers = new ArrayList<>();
        List<Churner> churners = new ArrayList<>();
        for (int i = 0; i < WORKERS; i++) {
            mixers.add(new Mixer());
            churners.add(new Churner());
        }
        mixers.forEach(Thread::start);
        churners.forEach(Thread::start);
        for (long count = 0; !Files.exists(Path.of("finish")); count++) {
            Thread.sleep(10);
            System.out.println("tick " + count + " " + timer.get());
        }
        finish.set(true);
        timers.shutdownNow();
        boolean right = timers.awaitTermination(10, TimeUnit.SECONDS);
        for (Mixer mixer : mixers) {
            mixer.join();
            right &= mixer.isRight();
        }
        for (Churner churner : churners) {
            churner.join();
            right &= churner.right;
        }
        System.out.println(right ? "DONE" : "WRONG");
    }
}
