#!/bin/bash
# Process 1 of a host of the laboratory (hosts.py), in namespaces of its own for processes, mounts, network, names and IPC. Arguments: the
# host's name, the laboratory's folder, the home folder of its one user, and the Python environment that it has as ~/venv.
# Its root is this machine's, copied on write into memory: nothing that happens here is seen outside, and all of it goes with this process.
set -eu
name=$1 lab=$2 home=$3 environment=$4
mount --make-rprivate /

disk=$lab/$name
mkdir -p "$disk"
mount -t tmpfs -o size=3g vistune-lab "$disk"
mkdir "$disk/written" "$disk/work" "$disk/root"
root=$disk/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/written,workdir=$disk/work" "$root"
mount -t proc proc "$root/proc"  # of this namespace: `ray stop` ends what it finds there
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=1g,mode=1777 vistune-lab "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=755 vistune-lab "$root/run"
mkdir -p "$root/run/sshd" "$root/tmp/ray" "$root/mnt/vistune"
mount -t tmpfs vistune-lab "$root/tmp/ray"  # its sessions, not this machine's
mount --bind "$lab/shared" "$root/mnt/vistune"  # stands for NFS

hostname "$name"
cp "$lab/hosts" "$root/etc/hosts"
sed -i "s#^root:.*#root:x:0:0:root:$home:/bin/bash#" "$root/etc/passwd"
mkdir -p -m 700 "$root$home/.ssh"
cp "$lab/key.pub" "$root$home/.ssh/authorized_keys"
ln -s "$environment" "$root$home/venv"
# No package index can be reached. The environment stands for one that has been installed from the lock file, as its mark says.
sha256sum < "$(dirname "$0")/../../../constraints-cuda.txt" > "$root$environment/vistune-lock"
echo 'export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1' > "$root$home/.bashrc"
echo '. ~/.bashrc' > "$root$home/.profile"

mkdir "$root/.outside"
cd "$root"
pivot_root . .outside
umount -l /.outside
ip link set lo up
export HOME=$home LANG=C.UTF-8
ssh-keygen -A > /dev/null
# By its whole path, as sshd wants it. Root comes by key alone.
[ "$name" = laptop ] || /usr/sbin/sshd -o UsePAM=no -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o PidFile=none
touch /run/ready
trap : CHLD  # orphans are reaped, as by any init
while :; do sleep 3600 & wait $! || true; done
