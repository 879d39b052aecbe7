// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadLoopDriver loads the kernel's driver, of which nothing is there before.
func loadLoopDriver() error {
	if _, err := os.Stat("/dev/loop-control"); err == nil {
		return nil
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	name := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), "kernel/drivers/block/loop.ko")
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", name, err)
	}
	return nil
}

// loopDevice makes a free loop device show the file. It lets go of the file when it is
// closed and not mounted any more.
func loopDevice(file *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	for {
		free, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", free), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		_ = device.Close()
		// Somebody else was faster.
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", device.Name(), err)
		}
	}
}

// loopDeviceOf names the device that shows a file, "" if none does. Files are told apart
// by their base names: a device may know its file by another path.
func loopDeviceOf(file string) (string, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		shown, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) {
			continue // It has gone meanwhile.
		}
		if err != nil {
			return "", err
		}
		if filepath.Base(strings.TrimSuffix(strings.TrimSpace(string(shown)), " (deleted)")) == filepath.Base(file) {
			return strings.Split(name, "/")[3], nil
		}
	}
	return "", nil
}
