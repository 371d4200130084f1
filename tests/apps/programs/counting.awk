# Reads a large file of "n square" lines; after every thousandth says where it is.
$1 != NR - 1 || $2 != $1 * $1 { print "WRONG", NR, $0; exit 1 }
{
	sum = (sum * 31 + $2) % 4294967291
	seen[$1 % 5000] += $2
}
NR % 1000 == 0 { print "tick", NR / 1000 - 1, sum; fflush() }
END { print "DONE", NR, sum, length(seen) }
