#!/bin/bash
# boot.sh BIND...: runs as the first process of new pid, mount, uts, ipc, net and cgroup
# namespaces. Makes a root of the host's own /usr on a tmpfs, binds each BIND (from=to) into it,
# and becomes systemd there. All of it is in this mount namespace, so nothing stays behind.
set -eu
R=/mnt
mount -t tmpfs -o size=512m,mode=755 root "$R"
cd "$R"
mkdir -p etc/systemd/system etc/dbus-1 usr var/log/journal var/lib var/tmp run tmp proc sys dev root \
    opt/plum/bin old home srv mnt
chmod 1777 tmp var/tmp; chmod 700 root
for l in bin sbin lib lib64; do [ ! -L /$l ] || ln -s usr/$l $l; done
mount --bind /usr usr
mount -o remount,bind,ro usr
for f in passwd group shadow gshadow nsswitch.conf ld.so.conf ld.so.conf.d ld.so.cache login.defs \
    services protocols os-release alternatives ssl pam.d security hosts; do
  [ ! -e /etc/$f ] || cp -a /etc/$f etc/
done
ln -s /run var/run
echo 0123456789abcdef0123456789abcdef > etc/machine-id     # not empty: it is no first boot
ln -s /usr/lib/systemd/system/multi-user.target etc/systemd/system/default.target
for u in getty@.service console-getty.service getty.target systemd-logind.service dbus.service \
    dbus.socket systemd-networkd.service systemd-resolved.service systemd-timesyncd.service \
    systemd-udevd.service systemd-udev-trigger.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service ldconfig.service systemd-modules-load.service \
    systemd-update-utmp.service systemd-firstboot.service dev-hugepages.mount \
    systemd-networkd-wait-online.service systemd-binfmt.service systemd-pstore.service \
    e2scrub_reap.service networking.service cron.service ssh.service; do
  ln -sf /dev/null etc/systemd/system/$u
done
for pair in "$@"; do
  mkdir -p "$R${pair#*=}"
  mount --rbind "${pair%%=*}" "$R${pair#*=}"
  mount -o remount,bind,ro "$R${pair#*=}"
done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs sys/fs/cgroup
for c in memory cpu cpuacct cpuset pids freezer devices blkio; do
  [ -d /sys/fs/cgroup/$c ] || continue
  mkdir sys/fs/cgroup/$c
  mount -t cgroup -o $c cgroup sys/fs/cgroup/$c
done
mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
pivot_root . old
umount -l /old
rmdir /old
exec env -i container=plum PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
  /lib/systemd/systemd --system --show-status=no --log-level=info --log-target=journal
