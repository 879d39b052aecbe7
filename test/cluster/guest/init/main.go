// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command init is process 1 of the nodes' initial RAM file system. A node needs
// three things before systemd: the block driver (the only storage module that
// the Debian cloud kernel does not have built in), the root file system, and
// the files that make this node differ from the others. The stock
// initramfs-tools image does the first two in several seconds of emulated
// shell; this program does all three in well under one.
//
// With "godwit.probe" on the kernel command line it prints ProbeLine and powers
// off: that is how the host learns whether an accelerator runs this kernel.
//
// It imports nothing but the standard library, because it is compiled from an
// embedded copy of this file.
package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	probeLine  = "godwit-probe-ok"
	newRoot    = "/newroot"
	rootDisk   = "/dev/vda"
	seedDisk   = "/dev/vdb"
	diskWait   = 20 * time.Second
	sysFinit   = 313 // finit_module on amd64, absent from package syscall
	systemInit = "/sbin/init"
)

func main() {
	err := run()
	// Only reached on failure (or after a probe). Say why on the console, which
	// the host keeps in a file, and power off so that the host notices.
	if err != nil {
		fmt.Printf("godwit-init: %v\n", err)
	}
	syscall.Sync()
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Printf("godwit-init: power off: %v\n", err)
	}
	select {}
}

func run() error {
	for _, m := range [][3]string{
		{"devtmpfs", "/dev", "devtmpfs"},
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
	} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if strings.Contains(string(cmdline), "godwit.probe") {
		fmt.Println(probeLine)
		return nil
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	for _, disk := range []string{rootDisk, seedDisk} {
		if err := waitFor(disk, diskWait); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(rootDisk, newRoot, "ext4", syscall.MS_NOATIME, "noinit_itable"); err != nil {
		return fmt.Errorf("mount %s: %w", rootDisk, err)
	}
	if err := unpackSeed(seedDisk, newRoot); err != nil {
		return fmt.Errorf("unpack the seed: %w", err)
	}
	return switchRoot()
}

// loadModules loads every module of dir in the order of the file names.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	sort.Strings(files)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		params := []byte{0}
		_, _, errno := syscall.Syscall(sysFinit, f.Fd(), uintptr(unsafe.Pointer(&params[0])), 0)
		f.Close()
		if errno != 0 && errno != syscall.EEXIST {
			return fmt.Errorf("load %s: %w", name, errno)
		}
	}
	return nil
}

// waitFor returns once path exists. virtio disks are probed while the driver
// loads, so the first look nearly always succeeds.
func waitFor(path string, limit time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not appear within %s", path, limit)
		}
	}
}

// unpackSeed writes the node's own files over the root file system. It is done
// at every boot, so a node that was powered off comes back with the same files.
func unpackSeed(disk, root string) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	archive := tar.NewReader(bufio.NewReaderSize(f, 1<<20))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(root, filepath.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s: only regular files are expected", h.Name)
		}
		if err := writeFile(path, archive, h.FileInfo().Mode().Perm()); err != nil {
			return err
		}
	}
}

func writeFile(path string, content io.Reader, mode os.FileMode) error {
	// A fresh inode: the old file may be a symlink or may have looser rights.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// switchRoot makes newRoot the root and becomes systemd.
func switchRoot() error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := syscall.Mount(dir, newRoot+dir, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", systemInit, syscall.Exec(systemInit, []string{systemInit}, []string{"TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}))
}
