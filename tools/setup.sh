#!/bin/sh
# Makes this checkout ready: `sh tools/setup.sh demo|test|lint`, called by make.
#
# Two things are set up, each only where it is missing, so that a second call is almost free:
#   - Debian packages with the programs that the demo or the tests run (lint runs none).  Root installs them; anybody
#     else is told their names in one sentence.  No daemon is started or left enabled by that.
#   - .venv with exactly the versions and hashes of requirements/run.txt (demo) or requirements/dev.txt (test, lint), and
#     this checkout in it, editable.  A stamp of the lock's and the project file's content says whether it is current.
# PYTHON=/path/to/python chooses the interpreter that .venv is made with; any from 3.11 on will do.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # daemons live there, and an ordinary user's PATH leaves it out
oldest=3.11

# program:package
demo_programs='curl:curl dnsmasq:dnsmasq-base dumpcap:wireshark-common nginx:nginx-light radvd:radvd tshark:tshark'
test_programs="$demo_programs atk6-implementation6:thc-ipv6 busybox:busybox-static capinfos:wireshark-common iperf3:iperf3
    ip:iproute2 linux.uml:user-mode-linux mount:mount ping:iputils-ping unshare:util-linux
    chromium:chromium dig:bind9-dnsutils drill:ldnsutils git:git nc.openbsd:netcat-openbsd ndisc6:ndisc6 pasta:passt proxychains4:proxychains4 scp:openssh-client
    slirp4netns:slirp4netns ssh:openssh-client ssh-keygen:openssh-client sshd:openssh-server unbound:unbound v2ray:v2ray wget:wget"
daemons='nginx:nginx radvd:radvd ssh:openssh-server unbound:unbound v2ray:v2ray' # services and the packages they begin with

say() { printf 'unimux: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

case ${1:-} in
    demo) lock=run programs=$demo_programs ;;
    test) lock=dev programs=$test_programs ;;
    lint) lock=dev programs='' ;;
    *) die "usage: sh tools/setup.sh demo|test|lint" ;;
esac
purpose=$1

recent_enough() { "$1" -c "import sys; sys.exit(sys.version_info[:2] < (${oldest%.*}, ${oldest#*.}))" 2>/dev/null; }

# The interpreter to make .venv with, in $python.
find_python() {
    for python in ${PYTHON:+"$PYTHON"} python3 /usr/bin/python3 python3.11 python3.12 python3.13; do
        if recent_enough "$python"; then return; fi
        [ "$python" != "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python $oldest or newer."
    done
    die "no Python $oldest or newer was found: install one, or name it with make $purpose PYTHON=/path/to/python3."
}

# The Debian packages that are missing, in $packages.
find_missing_packages() {
    packages=
    for pair in $programs; do
        command -v "${pair%%:*}" >/dev/null && continue
        case " $packages " in *" ${pair#*:} "*) ;; *) packages="$packages ${pair#*:}" ;; esac
    done
    if [ -n "${python:-}" ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        packages="$packages python3-venv"
    fi
    packages=${packages# }
}

policy=/usr/sbin/policy-rc.d # what Debian's maintainer scripts ask before they start a service
policy_kept=$policy.unimux-kept
policy_mark='# Written by unimux during a package installation'

restore_policy() {
    if [ -e "$policy_kept" ] || [ -L "$policy_kept" ]; then
        mv -f "$policy_kept" "$policy"
    elif grep -qsF "$policy_mark" "$policy"; then
        rm -f "$policy"
    fi
}

# Packages enable their daemons for the next start of the machine; those named in this file came only because of us.
to_disable=out/.setup-daemons

disable_daemons() {
    [ -e "$to_disable" ] || return 0
    while read -r daemon; do update-rc.d "$daemon" disable >/dev/null 2>&1 || true; done <"$to_disable"
    rm -f "$to_disable"
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" >>out/apt.log 2>&1; }

install_packages() {
    command -v apt-get >/dev/null ||
        die "this is not a Debian system; install the programs of these Debian packages yourself: $packages."
    say "installing Debian packages: $packages"
    : >out/apt.log
    for daemon in $daemons; do
        case " $packages " in *" ${daemon#*:} "* | *" ${daemon#*:}-"*) echo "${daemon%%:*}" >>"$to_disable" ;; esac
    done
    trap restore_policy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$policy_kept"; fi
    printf '#!/bin/sh\n%s: nothing is to be started.\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
    # The package lists may be absent or out of date; fetch them only then.
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends $packages ||
        { apt update && apt install -y --no-install-recommends $packages; } ||
        { tail -n 20 out/apt.log >&2; die "apt-get could not install $packages; its last messages stand above."; }
    restore_policy
    trap - EXIT INT TERM
    disable_daemons
}

set_up_packages() {
    find_missing_packages
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        install_packages
        find_missing_packages
        [ -z "$packages" ] || die "installed, and still not usable: $packages."
        return 0
    fi
    wanted="missing Debian packages: $packages (as root: apt-get install --no-install-recommends $packages)"
    case "$purpose $packages" in
        # Without root the demo has no use for daemons: it offers its in-memory form itself.
        *python3-venv* | test*) die "$wanted." ;;
        *) say "$wanted." ;;
    esac
}

fingerprint() { { pwd && cat "requirements/$1.txt" pyproject.toml; } | sha256sum; }
current() { [ -x .venv/bin/python ] && [ "$(cat ".venv/stamp-$1" 2>/dev/null)" = "$(fingerprint "$1")" ]; }
usable() { recent_enough .venv/bin/python && .venv/bin/python -c 'import pip' 2>/dev/null; }

set_up_environment() {
    rm -f .venv/stamp-run .venv/stamp-dev
    if ! usable; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv || die "no virtual environment could be made in $PWD/.venv."
    fi
    say "installing requirements/$lock.txt into .venv (once; a minute or so)"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    .venv/bin/python -m pip install --quiet --no-deps --require-hashes --requirement "requirements/$lock.txt" &&
        .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable . ||
        die "pip could not fill .venv; its messages stand above."
    fingerprint "$lock" >".venv/stamp-$lock"
}

# Two makes at once take turns.
mkdir -p out
exec 9>out/.setup-lock
if command -v flock >/dev/null; then flock 9; fi

# What a run that was killed while it installed left behind.
if [ -w "${policy%/*}" ]; then
    restore_policy
    disable_daemons
fi

python=
if ! current "$lock" && ! { [ "$lock" = run ] && current dev; }; then
    stale=yes
    usable || find_python
fi
set_up_packages
if [ -n "${stale:-}" ]; then set_up_environment; fi
