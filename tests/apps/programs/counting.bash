#!/bin/bash
# A loop of builtins. Standard input is a pipe whose other end is this very process's fd 9: a
# `read -t` that nobody feeds has to time out, and one that is fed has to find its line.
declare -A seen
declare -i count=0 sum=0 timeouts=0

until [[ -e finish ]]; do
	read -r -t 0.05 line
	status=$?
	# Above 128 means that the time was up; 0 is a line from nowhere, 1 an error or the end.
	if ((status <= 128)); then
		echo "read ended with status $status, line '$line'"
		exit 1
	fi
	timeouts+=1
	printf 'line %d\n' "$count" >&9
	read -r -t 5 line || exit 1
	[[ $line == "line $count" ]] || exit 1
	seen[$count]=$((count * 7 + 1))
	sum=$(((sum * 31 + seen[$count]) % 4294967291))
	printf 'tick %d %d %d\n' "$count" "$timeouts" "$sum"
	count+=1
done
echo "DONE $count $sum ${#seen[@]}"
