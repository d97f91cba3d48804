#!/bin/sh
# Installs, upgrades or removes the edge agent as a systemd service.
#
#   agent-setup.sh install SOURCE [--serial]   user, directories, program, sample configuration, service
#   agent-setup.sh upgrade SOURCE [--serial]   new program beside the old one; back to it if it does not start
#   agent-setup.sh remove [--purge]            keeps configuration and buffer unless --purge
#
# SOURCE is the wheel; for a gateway without internet the offline file of `make offline` (.tar), the folder it
# unpacks to, or a folder with all wheels. Each release has a folder of its own; `current` points to the one in
# use. METERCARBON_ROOT, for tests and images, goes before all paths.
set -eu
# The service's user reads the program, whatever root's umask is.
umask 022

root=${METERCARBON_ROOT:-}
user=metercarbon
service=metercarbon-agent.service
program=$root/opt/metercarbon
settings=$root/etc/metercarbon
state=$root/var/lib/metercarbon
units=$root/etc/systemd/system
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

fail() {
    echo "agent-setup: $1" >&2
    exit "${2:-1}"
}

usage() {
    fail "usage: agent-setup.sh install|upgrade SOURCE [--serial] | remove [--purge]" 2
}

make_user() {
    if ! getent passwd "$user" >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /var/lib/metercarbon \
            --shell /usr/sbin/nologin "$user"
    fi
}

# The group that owns serial ports: dialout (Debian and others) or uucp (Arch and others).
serial_group() {
    for group in dialout uucp; do
        if getent group "$group" >/dev/null; then
            echo "$group"
            return
        fi
    done
    fail "--serial: neither group dialout nor uucp exists"
}

# Fills $release from the source.
put_program() {
    case $1 in
        *.tar)
            mkdir "$release.unpacked"
            tar -xf "$1" -C "$release.unpacked" --strip-components=1 || fail "$1: is not an archive that can be read"
            [ -e "$release.unpacked/install.sh" ] || fail "$1: is not the file that make offline makes"
            sh "$release.unpacked/install.sh" "$release"
            rm -rf "$release.unpacked"
            return
            ;;
    esac
    if [ -e "$1/install.sh" ]; then
        sh "$1/install.sh" "$release"
        return
    fi
    python3 -m venv "$release"
    if [ -d "$1" ]; then
        "$release/bin/pip" install --quiet --no-index --find-links "$1" "metercarbon[edge]"
    else
        "$release/bin/pip" install --quiet "$1[edge]"
    fi
}

# Exports the variables of a file that systemd reads: it is no script, so nothing in a value is expanded or run.
export_variables() {
    while IFS= read -r line || [ -n "$line" ]; do
        name=${line%%=*}
        value=${line#*=}
        case $name in
            "$line" | "" | [0-9]* | *[!A-Za-z0-9_]*) continue ;;
        esac
        case $value in
            \"*\" | \'*\')
                value=${value#?}
                value=${value%?}
                ;;
        esac
        export "$name=$value"
    done <"$1"
}

# Sets $release to a new folder with the program in it, which works and accepts the configuration there is.
make_release() {
    number=1
    while [ -e "$program/releases/$number" ]; do
        number=$((number + 1))
    done
    release=$program/releases/$number
    mkdir -p "$program/releases"
    trap 'rm -rf "$release" "$release.unpacked"' EXIT
    put_program "$1"
    "$release/bin/edge-agent" --version
    if [ -e "$settings/agent.toml" ]; then
        (
            if [ -r "$settings/agent.env" ]; then export_variables "$settings/agent.env"; fi
            "$release/bin/edge-agent" check-config "$settings/agent.toml"
        ) || fail "the configuration does not pass the new release; nothing was changed"
    fi
    trap - EXIT
}

# Points `current` to a release in one step.
use() {
    # One that a power cut left behind is replaced, not followed.
    ln -sfn "releases/${1##*/}" "$program/current.new"
    mv -T "$program/current.new" "$program/current"
}

put_unit() {
    mkdir -p "$units"
    cp "$here/$service" "$units/$service"
    chmod 0644 "$units/$service"
    if [ "$serial" = yes ]; then
        group=$(serial_group)
        mkdir -p "$units/$service.d"
        cat >"$units/$service.d/serial.conf" <<DROPIN
[Service]
SupplementaryGroups=$group
PrivateUsers=no
PrivateDevices=no
DevicePolicy=closed
DeviceAllow=char-ttyS rw
DeviceAllow=char-ttyUSB rw
DeviceAllow=char-ttyACM rw
DeviceAllow=char-ttyAMA rw
DROPIN
        chmod 0644 "$units/$service.d/serial.conf"
    fi
    systemctl daemon-reload
}

install_agent() {
    [ ! -e "$program/current" ] || fail "an agent is installed already; allowed: upgrade"
    make_user
    make_release "$1"
    mkdir -p "$settings" "$state"
    chown "root:$user" "$settings"
    chown "$user:$user" "$state"
    chmod 0750 "$settings" "$state"
    if [ ! -e "$settings/agent.toml" ]; then
        "$release/bin/edge-agent" print-config >"$settings/agent.toml"
        chown "root:$user" "$settings/agent.toml"
        chmod 0640 "$settings/agent.toml"
    fi
    use "$release"
    put_unit
    systemctl enable "$service"
    echo "Installed. Edit /etc/metercarbon/agent.toml, then: systemctl start $service"
}

upgrade_agent() {
    [ -e "$program/current" ] || fail "no agent is installed; allowed: install"
    old=$program/releases/$(basename -- "$(readlink "$program/current")")
    make_release "$1"
    cp "$units/$service" "$units/$service.old"
    use "$release"
    put_unit
    # With Type=notify this returns when the agent polls, or fails.
    if ! systemctl restart "$service"; then
        use "$old"
        mv "$units/$service.old" "$units/$service"
        systemctl daemon-reload
        systemctl restart "$service" || true
        rm -rf "$release"
        fail "the new release does not start; the old one is in use again"
    fi
    rm -f "$units/$service.old"
    for folder in "$program"/releases/*; do
        if [ "$folder" != "$release" ] && [ "$folder" != "$old" ]; then
            rm -rf "$folder"
        fi
    done
    echo "Upgraded. The release before is kept in ${old#"$root"}"
}

remove_agent() {
    systemctl disable --now "$service" || true
    rm -rf "${units:?}/$service" "$units/$service.d" "${program:?}"
    systemctl daemon-reload
    if [ "$purge" = yes ]; then
        rm -rf "${settings:?}" "${state:?}"
        if getent passwd "$user" >/dev/null; then userdel "$user"; fi
        echo "Removed, with configuration and buffer."
    else
        echo "Removed. Configuration and buffer, perhaps with readings not yet sent, are kept:"
        echo "/etc/metercarbon /var/lib/metercarbon"
    fi
}

[ $# -ge 1 ] || usage
action=$1
shift
source=
serial=no
purge=no
for argument in "$@"; do
    case $argument in
        --serial) serial=yes ;;
        --purge) purge=yes ;;
        -*) usage ;;
        *)
            [ -z "$source" ] || usage
            source=$argument
            ;;
    esac
done
case $action in
    install | upgrade)
        [ -n "$source" ] && [ "$purge" = no ] || usage
        [ -e "$source" ] || fail "$source: no such file or folder" 2
        ;;
    remove) [ -z "$source" ] && [ "$serial" = no ] || usage ;;
    *) usage ;;
esac
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "must be run as root"
"${action}_agent" "$source"
