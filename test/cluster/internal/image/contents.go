// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package image

// packages are what the nodes have besides Debian's essential packages.
var packages = []string{
	"ca-certificates",
	"chrony",
	"conntrack",
	"criu",
	"dbus",
	"e2fsprogs",
	"ethtool",
	"iproute2",
	"iptables",
	"iputils-ping",
	"kmod",
	"libseccomp2",
	"linux-image-cloud-amd64",
	"mount",
	"nfs-common",
	"nftables",
	"openssh-server",
	"procps",
	"socat",
	"strace",
	"systemd",
	"systemd-sysv",
	"udev",
	"util-linux",
}

// enabled are the units that multi-user.target wants besides Debian's own.
var enabled = []string{
	"godwit-network.service",
	"godwit-steady.service",
	"containerd.service",
	"godwit-images.service",
	"godwit-modules.service",
	"kubelet.service",
	"kube-proxy.service",
}

// masked are units that cost seconds of emulated boot, or background work in
// the middle of a measurement, and do nothing that these nodes need.
var masked = []string{
	"apt-daily.timer",
	"apt-daily-upgrade.timer",
	"dpkg-db-backup.timer",
	"e2scrub_all.timer",
	"e2scrub_reap.service",
	"fstrim.timer",
	"getty@tty1.service",
	"getty-static.service",
	"serial-getty@ttyS0.service",
	"nfs-blkmap.service",
	"rpcbind.service",
	"rpcbind.socket",
	"rpc-statd.service",
	"rpc-statd-notify.service",
	"nfs-idmapd.service",
	"sshd-keygen.service",
	"ldconfig.service",
	"proc-sys-fs-binfmt_misc.automount",
	"systemd-binfmt.service",
	"systemd-battery-check.service",
	"systemd-firstboot.service",
	"systemd-hibernate-clear.service",
	"systemd-hwdb-update.service",
	"systemd-journal-catalog-update.service",
	"systemd-logind.service",
	"systemd-machine-id-commit.service",
	"systemd-pcrmachine.service",
	"systemd-pcrphase.service",
	"systemd-pcrphase-sysinit.service",
	"systemd-pstore.service",
	"systemd-sysusers.service",
	"systemd-tpm2-setup.service",
	"systemd-tpm2-setup-early.service",
	"systemd-update-done.service",
	"systemd-ask-password-console.path",
	"systemd-ask-password-wall.path",
	"systemd-creds.socket",
	"systemd-pcrextend.socket",
	"systemd-pcrlock.socket",
	"systemd-sysext.socket",
	"systemd-tmpfiles-clean.timer",
	"dev-hugepages.mount",
	"sys-fs-fuse-connections.mount",
	"sys-kernel-config.mount",
	"sys-kernel-tracing.mount",
	"run-lock.mount",
	// The root file system is mounted as it should be by the init program.
	"systemd-remount-fs.service",
	"systemd-random-seed.service",
	// No udev: the devices are known and the kernel makes their files. It would
	// start a process for each interface of each pod, and give bridges and pairs
	// addresses of its own.
	"systemd-udevd.service",
	"systemd-udevd-control.socket",
	"systemd-udevd-kernel.socket",
	"systemd-udev-trigger.service",
	"systemd-udev-load-credentials.service",
	"kmod-static-nodes.service",
	"systemd-tmpfiles-setup-dev.service",
	"systemd-tmpfiles-setup-dev-early.service",
	// The shared volume is mounted by kubelet, without Kerberos.
	"nfs-client.target",
	"remote-fs.target",
	"rpc-gssd.service",
	"run-rpc_pipefs.mount",
	"systemd-hostnamed.socket",
}

// dropped is what the packages bring and no node reads. The kernel and its
// initial RAM file system are kept beside the disk, not on it.
var dropped = []string{
	"boot",
	"usr/share/doc",
	"usr/share/info",
	"usr/share/locale",
	"usr/share/man",
	"usr/share/i18n",
	"usr/lib/initramfs-tools",
	"var/cache/apt",
	"var/lib/apt/lists",
	"etc/ssh/ssh_host_ecdsa_key",
	"etc/ssh/ssh_host_ecdsa_key.pub",
	"etc/ssh/ssh_host_ed25519_key",
	"etc/ssh/ssh_host_ed25519_key.pub",
	"etc/ssh/ssh_host_rsa_key",
	"etc/ssh/ssh_host_rsa_key.pub",
	"etc/machine-id",
}
