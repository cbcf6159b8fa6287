#!/bin/busybox sh
# The first process of a virtual machine: makes the root file system out of the host's, which stays as it is, and
# hands over to what the host left there.
/bin/busybox --install -s /bin
export PATH=/bin
fail() {
    echo "init: $*"
    echo o > /proc/sysrq-trigger
    sleep 60
}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod "/modules/$module" || fail "cannot load $module"
done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /lower || fail "cannot mount the host's root"
mount -t tmpfs upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /new || fail "cannot mount the root"
for folder in proc sys dev; do
    mount -o move "/$folder" "/new/$folder"
done
script=$(sed -n 's/.*redial.script=\([^ ]*\).*/\1/p' /new/proc/cmdline)
exec switch_root /new /bin/sh "$script"
