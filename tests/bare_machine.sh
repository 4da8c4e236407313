#!/bin/sh
# The README's two commands on a machine that has nothing: sh tests/bare_machine.sh [FOLDER [ARGS OF make test]], as root.
#
# A minimal Debian 12 is bootstrapped into FOLDER (default out/bare) with python3, git and make and nothing else; the committed
# state of this checkout is cloned there, and `make demo` and `make test` run as root, then `make demo` as an ordinary user, on
# a second such system, where root has installed nothing but what `make` names: between kernels it needs root, and says so.
#
#   sh tests/bare_machine.sh out/bare -k codecs      # a selection of the tests
#   SUITE=trixie MIRROR=http://mirror.example/debian sh tests/bare_machine.sh
#   WITHOUT='test' leaves that step out (demo, test, user); KEEP=1 leaves the folders where they are
#
# Each step runs in mount, PID, IPC and UTS namespaces of its own with the machine's network: packages come through it.
# Of this machine it has resolv.conf, the certificates that it trusts, and the settings of pip and proxies in the environment.
# Needed here: debootstrap, unshare, mount, chroot (Debian: debootstrap, util-linux, mount, coreutils).
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$project/out/bare}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ $# = 0 ] || shift
suite=${SUITE:-bookworm}
certificates=/etc/ssl/certs/ca-certificates.crt

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf 'bare_machine: %s\n' "$*" >&2; exit 2; }
[ "$(id -u)" = 0 ] || die "a system is bootstrapped as root."
[ -e "$certificates" ] || die "$certificates is missing (Debian: ca-certificates)."
for program in debootstrap unshare chroot mount; do
    command -v "$program" >/dev/null || die "$program is missing."
done

# The mirror that this machine's apt uses for the suite, else debootstrap's own default.
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" "Created-By: Packages" 2>/dev/null | head -n 1)}

bootstrap() {
    if [ ! -e "$folder/bare/.complete" ]; then
        rm -rf "$folder/bare"
        mkdir -p "$folder/bare"
        # shellcheck disable=SC2086
        debootstrap --variant=minbase --include=python3,git,make "$suite" "$folder/bare" ${mirror:+"$mirror"} \
            >"$folder/debootstrap.log" 2>&1 || { tail "$folder/debootstrap.log" >&2; die "debootstrap failed."; }
        touch "$folder/bare/.complete"
    fi
}

# machine NAME: a copy of the bare system, with the committed state of the project.
machine() {
    rm -rf "${folder:?}/$1"
    cp -a "$folder/bare" "$folder/$1"
    cp -L /etc/resolv.conf "$folder/$1/etc/resolv.conf"
    # Beside the system's own file, which the installation of ca-certificates writes anew.
    cp -L "$certificates" "$folder/$1/opt/trusted.crt"
    chroot "$folder/$1" useradd --create-home stranger
    git clone --quiet --no-hardlinks "$project" "$folder/$1/root/unimux"
    git clone --quiet --no-hardlinks "$project" "$folder/$1/home/stranger/unimux"
    chroot "$folder/$1" chown -R stranger: /home/stranger
}

# inside NAME USER COMMAND: run it in the machine, as that user, in the clone.  Its processes end with it, its mounts too.
inside() {
    home=/home/$2
    [ "$2" != root ] || home=/root
    # shellcheck disable=SC2016
    PLACE=$folder/$1 WHO=$2 HOME_THERE=$home DO=$3 unshare --mount --pid --ipc --uts --fork --kill-child sh -c '
        set -eu
        mount --make-rprivate /
        mount --bind "$PLACE" "$PLACE"
        mount -t proc proc "$PLACE/proc"
        mount -t sysfs sysfs "$PLACE/sys"
        mount --rbind /dev "$PLACE/dev"
        mount -t tmpfs tmpfs "$PLACE/run"
        mount -t tmpfs tmpfs "$PLACE/tmp"
        mkdir -p "$PLACE/run/lock"
        chmod 1777 "$PLACE/tmp"
        cd /
        exec env -i TERM="${TERM:-dumb}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            PIP_CERT=/opt/trusted.crt ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} \
            ${PIP_DEFAULT_TIMEOUT:+PIP_DEFAULT_TIMEOUT="$PIP_DEFAULT_TIMEOUT"} \
            ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
            chroot --userspec="$WHO:$WHO" "$PLACE" env HOME="$HOME_THERE" sh -c "cd && cd unimux && $DO"'
}

failed=
judge() { # judge NAME STATUS
    if [ "$2" = 0 ]; then say "$1: passed"; else
        say "$1: FAILED with status $2"
        failed="$failed $1"
    fi
}

step() { # step NAME MACHINE USER COMMAND
    case " ${WITHOUT:-} " in *" $1 "*) return 0 ;; esac
    say "$1: as $3, $4"
    status=0
    inside "$2" "$3" "$4" || status=$?
    judge "$1" "$status"
}

bootstrap
machine first
step demo first root "make demo"
step test first root "make test ARGS='$*'"

# refused NAME MACHINE USER COMMAND PATTERN: the command fails, and what it says matches.
refused() {
    say "$1: as $3, $4"
    if inside "$2" "$3" "$4" >"$folder/$1.log" 2>&1; then status=0; else status=$?; fi
    cat "$folder/$1.log" >&2
    if [ "$status" != 0 ] && grep -q "$5" "$folder/$1.log"; then judge "$1" 0; else judge "$1" 1; fi
}

# An ordinary user cannot install python3-venv, which Debian's python3 comes without: make says so in one sentence, with
# the command for root.  Once that has been done, the same command stops at what only root may do, network namespaces, and names
# the form that needs none; that succeeds.
case " ${WITHOUT:-} " in *" user "*) ;; *)
    machine second
    refused nothing-installed second stranger "make demo" 'missing Debian packages: .*python3-venv.*(as root: apt-get install'
    remedy=$(sed -n 's/.*(as root: \(apt-get install .*\)).*/\1/p' "$folder/nothing-installed.log" | head -n 1)
    [ -z "$remedy" ] || step remedy second root "apt-get update -q && DEBIAN_FRONTEND=noninteractive $remedy -qy >/tmp/apt.log"
    refused not-root second stranger "make demo" 'run it as root.*run the story in memory with .unimux demo --memory'
    step user second stranger "make demo ARGS=--memory"
    ;;
esac

[ -n "${KEEP:-}" ] || rm -rf --one-file-system "${folder:?}/first" "${folder:?}/second"
if [ -n "$failed" ]; then
    say "failed:$failed"
    exit 1
fi
say "a bare machine runs the README's commands"
