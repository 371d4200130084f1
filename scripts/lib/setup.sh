# shellcheck shell=bash
# Set-up shared by scripts/demo, scripts/test, scripts/check and scripts/bench; sourced, never run.
#
# setup_runtime installs what the tool itself needs, setup_tests also what the tests need. Both end
# with a .venv on /usr/bin/python3, because only Debian's own python3 can see Debian's BCC. A second
# call finds the packages and the stamp in place and takes a fraction of a second.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
STAMP=$VENV/.ckpt-setup
SYSTEM_PYTHON=/usr/bin/python3

RUNTIME_PACKAGES=(python3 python3-venv python3-bpfcc libbpf1 gcc libc6-dev)
TEST_PACKAGES=(linux-libc-dev libaio-dev gdb libc6-dbg chromium strace procps util-linux golang-go gawk perl
	zsh fish man-db groff-base mandoc)
# Any JDK will do: asking for Debian's default one beside another would download it a second time.
JDK_PACKAGE=default-jdk-headless

say() { printf '%s\n' "set-up: $*" >&2; }

die() {
	say "$*"
	exit 1
}

require_root() {
	[ "$(id -u)" -eq 0 ] || die "root is needed; run: sudo ${0}"
}

is_debian() {
	[ -r /etc/os-release ] || return 1
	(. /etc/os-release && case " ${ID:-} ${ID_LIKE:-} " in *" debian "*) ;; *) exit 1 ;; esac) &&
		command -v apt-get >/dev/null
}

missing_packages() {
	local package
	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
			printf '%s\n' "$package"
	done
}

# Installs the packages named, where they are missing.
install_packages() {
	if ! is_debian; then
		say "this is not a Debian system: please install what these Debian packages hold: $*"
		say "(python3 with the venv module, BCC's Python bindings and libbpf are the heart of it)"
		exit 1
	fi
	local missing
	mapfile -t missing < <(missing_packages "$@")
	[ "${#missing[@]}" -gt 0 ] || return 0
	require_root
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >&2 || say "apt-get update failed; trying with the package lists at hand"
	apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null >&2 ||
		die "apt-get could not install: ${missing[*]}"
}

# What the venv depends on: when none of it changed, the venv is as it should be.
setup_digest() {
	{
		printf '%s\n' "$ROOT"
		"$SYSTEM_PYTHON" -IS -c 'import sys; print(sys.version)'
		cat "$ROOT/pyproject.toml" "$ROOT"/scripts/lib/{setup.sh,constraints.txt,make_launcher.py}
	} | sha256sum | cut -d' ' -f1
}

make_venv() {
	local digest
	digest=$(setup_digest)
	if [ -x "$PYTHON" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$digest" ]; then
		return 0
	fi
	say "making $VENV"
	rm -f "$STAMP"
	[ -x "$PYTHON" ] || "$SYSTEM_PYTHON" -m venv --system-site-packages "$VENV" ||
		die "could not make $VENV (is it on a full or read-only disk?)"
	"$PYTHON" -m pip install -q --disable-pip-version-check --no-input --root-user-action=ignore \
		-c "$ROOT/scripts/lib/constraints.txt" -e "$ROOT[dev]" </dev/null >&2 ||
		die "pip could not install the project (its message is above)"
	"$PYTHON" "$ROOT/scripts/lib/make_launcher.py" "$ROOT" "$VENV" >&2
	printf '%s\n' "$digest" >"$STAMP"
}

# Start-up time counts in every snapshot, so no run should have to compile Python first.
compile_python() {
	"$PYTHON" -m compileall -q "$ROOT/ckpt" "$ROOT/arch" "$ROOT/bpf" >&2 ||
		die "the Python code does not compile"
}

setup_venv() {
	# The lock is on this very file: two scripts started at once set up one after the other.
	exec 9<"$ROOT/scripts/lib/setup.sh"
	flock 9
	make_venv
	compile_python
	exec 9<&-
}

setup_runtime() {
	install_packages "${RUNTIME_PACKAGES[@]}"
	setup_venv
}

setup_tests() {
	local packages=("${RUNTIME_PACKAGES[@]}" "${TEST_PACKAGES[@]}")
	command -v javac >/dev/null || packages+=("$JDK_PACKAGE")
	install_packages "${packages[@]}"
	setup_venv
}
