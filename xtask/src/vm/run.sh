# What a virtual machine does once it has a root file system. Before this stand the variables and the arguments: $modules
# is where its modules are, $tests the folder that the tests are run in.
exec < /dev/null > /dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
ulimit -n 65536
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm "/lib/modules/$(uname -r)"
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -o bind "$modules" "/lib/modules/$(uname -r)"
# Nobody but udev loads what a device file alone asks for.
modprobe tun
ip link set lo up
cd "$tests" && "$@"
echo "ended: $?"
echo o > /proc/sysrq-trigger
# The first process may not end, and when the machine goes no other program can be started.
while :; do :; done
