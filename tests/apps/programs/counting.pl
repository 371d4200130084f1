#!/usr/bin/perl
# Counts in a sleeping loop while an interval timer's signal handler counts as well, and keeps a
# growing structure whose checksum depends on every step. Ends when a file `finish` appears.
use strict;
use warnings;
use Time::HiRes qw(setitimer sleep ITIMER_REAL);

$| = 1;
my ( $alarms, $count, $sum, %seen ) = ( 0, 0, 0 );
$SIG{ALRM} = sub { $alarms++ };
setitimer( ITIMER_REAL, 0.02, 0.02 );

until ( -e 'finish' ) {
	sleep 0.01;    # cut short by the alarms, which is part of the exercise
	$seen{$count} = $count * 7 + 1;
	$sum = ( $sum * 31 + $seen{$count} ) % 4294967291;
	print "tick $count $alarms $sum\n";
	$count++;
}
setitimer( ITIMER_REAL, 0, 0 );

my $again = 0;
$again = ( $again * 31 + $seen{$_} ) % 4294967291 for 0 .. $count - 1;
print $again == $sum ? "DONE $count $sum\n" : "WRONG $again $sum\n";
