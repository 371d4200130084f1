// Goroutines that compute, hand values on through channels, make garbage and sleep. Ends when a
// file named "finish" appears, and then checks every result.
package main

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const workers = 8

func step(value, n uint64) uint64 {
	value ^= n * 0x9E3779B97F4A7C15
	value = (value<<23 | value>>41) * 0xBF58476D1CE4E5B9
	return value ^ value>>29
}

// mix computes without a pause, so that the scheduler has to preempt it by signal.
func mix(finish *atomic.Bool) (steps, value uint64) {
	for !finish.Load() {
		for i := 0; i < 200000; i++ {
			value = step(value, steps)
			steps++
		}
		time.Sleep(5 * time.Millisecond)
	}
	return steps, value
}

func check(steps, value uint64) bool {
	var again uint64
	for n := uint64(0); n < steps; n++ {
		again = step(again, n)
	}
	return again == value
}

// produce sends fresh slices, each filled with its own number.
func produce(finish *atomic.Bool, out chan<- []uint64) {
	for n := uint64(0); !finish.Load(); n++ {
		piece := make([]uint64, 1024)
		for i := range piece {
			piece[i] = n
		}
		out <- piece
		if n%64 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	close(out)
}

func consume(in <-chan []uint64) bool {
	var n uint64
	for piece := range in {
		if piece[0] != n || piece[1023] != n {
			return false
		}
		n++
	}
	return true
}

func main() {
	var finish, wrong atomic.Bool
	var group sync.WaitGroup
	for w := 0; w < workers; w++ {
		pieces := make(chan []uint64, 16)
		group.Add(3)
		go func() {
			defer group.Done()
			if !check(mix(&finish)) {
				wrong.Store(true)
			}
		}()
		go func() {
			defer group.Done()
			produce(&finish, pieces)
		}()
		go func() {
			defer group.Done()
			if !consume(pieces) {
				wrong.Store(true)
				for range pieces {
				}
			}
		}()
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	for count := 0; ; count++ {
		<-ticker.C
		fmt.Println("tick", count)
		if _, err := os.Stat("finish"); err == nil {
			break
		}
	}
	finish.Store(true)
	group.Wait()
	if wrong.Load() {
		fmt.Println("WRONG")
		os.Exit(1)
	}
	fmt.Println("DONE")
}
