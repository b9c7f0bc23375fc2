#!/bin/bash
# A real three-node Slurm on this host, each node a network namespace, for tests. As root.
#
#   slurm.sh start FOLDER     brings it up in the new folder FOLDER; then: FOLDER/on ctl sbatch ..., FOLDER/on n1 COMMAND
#   slurm.sh stop FOLDER      ends its jobs and daemons and removes its namespaces; FOLDER keeps the logs
#
# Names carry the pid of `start`, so that several clusters live side by side, and beside a Slurm the host may have. What
# is stopped is found by this cluster's pid files and namespaces alone. Needs slurmctld slurmd slurm-client munge iproute2.
set -euo pipefail

NET=10.77.0 # only inside the namespaces
NODES=(n0 n1 n2)

die() {
    echo "slurm.sh: $*" >&2
    exit 1
}

# Writes FOLDER/on, which runs a command as if logged in on a node: its network, its host name, this cluster's Slurm.
write_on() {
    cat >"$folder/on" <<ON
#!/bin/bash
node=\$1
shift
export SLURM_CONF='$folder/slurm.conf' OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec nsenter --net='/run/netns/$prefix'"\$node" unshare --uts sh -c 'hostname "\$0" && exec "\$@"' '$prefix'"\$node" "\$@"
ON
    chmod 755 "$folder/on"
}

# Patient, as the host may be busy: a daemon that does not answer within MessageTimeout (10 s, if not said) makes Slurm itself
# requeue the job. A requeued job waits for cred_expire (120 s, if not said) before it starts again.
write_conf() {
    local i
    cat >"$folder/slurm.conf" <<CONF
ClusterName=$prefix
SlurmctldHost=${prefix}ctl($NET.10)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=15
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/ctl.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/ctl.log
SlurmdLogFile=$folder/%n.log
TmpFS=$folder/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=3600
SlurmdTimeout=300
MessageTimeout=100
CONF
    for i in "${!NODES[@]}"; do
        echo "NodeName=$prefix${NODES[i]} NodeAddr=$NET.$((11 + i)) CPUs=2 RealMemory=4000 State=UNKNOWN"
    done >>"$folder/slurm.conf"
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$folder/slurm.conf"
    # Nothing here uses cgroups, but slurmd loads a plugin and its default wants systemd's cgroup v2.
    [ -d /sys/fs/cgroup/freezer ] && echo 'CgroupPlugin=cgroup/v1' >"$folder/cgroup.conf"
    return 0
}

# One bridge in its own namespace; every node hangs on it by a veth pair.
make_network() {
    local switch=${prefix}sw node i=10
    ip netns add "$switch"
    ip -n "$switch" link add br0 type bridge
    ip -n "$switch" link set br0 up
    for node in ctl "${NODES[@]}"; do
        ip netns add "$prefix$node"
        ip link add eth0 netns "$prefix$node" type veth peer name "$node" netns "$switch"
        ip -n "$switch" link set "$node" master br0 up
        ip -n "$prefix$node" addr add "$NET.$i/24" dev eth0
        ip -n "$prefix$node" link set eth0 up
        ip -n "$prefix$node" link set lo up
        i=$((i + 1))
    done
}

start_munge() {
    mkdir -m 755 "$folder/munge"
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge/key")
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" 2>"$folder/munge/warnings" ||
        die "munged did not start: $(cat "$folder/munge/warnings")"
}

start() {
    local node
    prefix=qs$$
    [ "$(id -u)" = 0 ] || die "needs root (network namespaces)"
    mkdir "$folder" "$folder/state" || die "$folder must be a new folder"
    chmod 755 "$folder"
    folder=$(cd "$folder" && pwd)
    echo "$prefix" >"$folder/prefix"
    PATH=$PATH:/usr/sbin:/sbin
    write_on
    write_conf
    make_network
    start_munge
    "$folder/on" ctl slurmctld
    for node in "${NODES[@]}"; do
        mkdir "$folder/spool.$prefix$node" "$folder/tmp.$prefix$node"
        "$folder/on" "$node" slurmd -N "$prefix$node"
    done
    for _ in $(seq 150); do
        [ "$("$folder/on" ctl sinfo -h -t idle -o %D 2>/dev/null)" = "${#NODES[@]}" ] && return 0
        sleep 0.2
    done
    tail -n 5 "$folder"/*.log >&2
    stop
    die "the cluster did not come up within 30 s; logs in $folder"
}

# Ends the process named in a pid file: TERM, and KILL after 3 s.
end_pid_file() {
    local pid
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in $(seq 30); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

stop() {
    local node pid file
    folder=$(cd "$folder" && pwd)
    prefix=$(cat "$folder/prefix")
    for file in "$folder/$prefix"n*.pid "$folder/ctl.pid" "$folder/munge/pid"; do end_pid_file "$file"; done
    for node in ctl "${NODES[@]}" sw; do
        [ -e "/run/netns/$prefix$node" ] || continue
        for pid in $(ip netns pids "$prefix$node"); do kill -KILL "$pid" 2>/dev/null || true; done # steps left behind
        ip netns delete "$prefix$node"
    done
    rm -f /dev/shm/vader_segment."$prefix"* # Open MPI leaves them after a kill
}

[ $# = 2 ] || die "usage: slurm.sh start|stop FOLDER"
folder=$2
case $1 in
    start) start ;;
    stop) stop ;;
    *) die "usage: slurm.sh start|stop FOLDER" ;;
esac
