// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Packages are the Debian packages that the cluster tool needs on the host. Go
// is not among them: whoever runs this tool has it.
var Packages = []string{
	"ca-certificates",
	"conntrack",
	"cpio",
	"debian-archive-keyring",
	"debootstrap",
	"e2fsprogs",
	"gcc",
	"iproute2",
	"iptables",
	"libc6-dev",
	"libseccomp-dev",
	"mount",
	"nfs-ganesha",
	"nfs-ganesha-vfs",
	"nftables",
	"openssh-client",
	"pkg-config",
	"procps",
	"qemu-system-x86",
	"qemu-utils",
	"util-linux",
	"xz-utils",
}

// nfsService would be started by its package on a host that runs systemd; ours
// runs only inside a cluster's namespace.
const nfsService = "nfs-ganesha.service"

// MissingPackages returns which of Packages are not installed.
func MissingPackages(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, Packages...)...).Output()
	// dpkg-query exits with 1 when it does not know one of the packages.
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return nil, fmt.Errorf("dpkg-query (the host must be Debian): %w", err)
	}
	return missing(Packages, string(out)), nil
}

// missing returns the wanted packages that the dpkg-query listing does not show
// as installed.
func missing(wanted []string, listing string) []string {
	installed := map[string]bool{}
	for line := range strings.Lines(listing) {
		if name, status, ok := strings.Cut(strings.TrimSpace(line), " "); ok && status == "installed" {
			installed[name] = true
		}
	}
	var names []string
	for _, name := range wanted {
		if !installed[name] {
			names = append(names, name)
		}
	}
	return names
}

// aptLock is held by whoever of this repository runs apt, which does not wait for
// the lock of the package lists; hack/packages.sh takes it too.
const aptLock = "/run/lock/godwit-apt.lock"

// InstallPackages installs Debian packages, with the package lists fetched
// before. The output goes to log.
func InstallPackages(ctx context.Context, log io.Writer, names []string) error {
	return withApt(func() error {
		systemd := false
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			systemd = true
		}
		if systemd {
			if err := Run(ctx, "systemctl", "mask", "--runtime", nfsService); err != nil {
				return err
			}
		}
		err := apt(ctx, log, nil, names...)
		if systemd {
			err = errors.Join(err,
				Run(ctx, "systemctl", "unmask", "--runtime", nfsService),
				Run(ctx, "systemctl", "disable", nfsService))
		}
		return err
	})
}

// withApt calls f when nobody else of this repository runs apt.
func withApt(f func() error) error {
	lock, err := os.OpenFile(aptLock, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", aptLock, err)
	}
	return f()
}

// apt fetches the package lists and installs what is named.
func apt(ctx context.Context, log io.Writer, options []string, names ...string) error {
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	update := slices.Concat([]string{"apt-get"}, options, []string{"update"})
	install := slices.Concat([]string{"apt-get", "-o", "DPkg::Lock::Timeout=600"}, options, []string{"install", "-y", "--no-install-recommends"}, names)
	if err := (Command{Args: update, Env: env, Log: log}).Run(ctx); err != nil {
		return err
	}
	return Command{Args: install, Env: env, Log: log}.Run(ctx)
}
