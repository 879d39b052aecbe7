// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// chain is where a move by hand keeps its dumps: each in a directory of its number,
// with a relative path to its parent, so that either node can follow it.
type chain struct {
	// images are on the shared volume, work is on each node.
	images, work string
}

// at are the directories of dump k and the place of its log.
func (c chain) at(k int) (images, work, log string) {
	images, work = fmt.Sprintf("%s/%d", c.images, k), fmt.Sprintf("%s/%d", c.work, k)
	return images, work, work + "/log"
}

// warm reads dump k, so that the page cache has it.
func (c chain) warm(k int) string {
	images, _, _ := c.at(k)
	return "cat " + images + "/*.img >/dev/null"
}

// explain shows the errors of a log when a command fails.
func explain(command, log string) string {
	return command + " || { status=$?; grep -hE 'Error|error' " + log + " | tail -n 8; exit $status; }"
}

// criu is a command of CRIU's on dump k.
func (c chain) criu(verb string, k int, args string) string {
	images, work, log := c.at(k)
	return fmt.Sprintf("mkdir -p %s %s && ", images, work) +
		explain(fmt.Sprintf("criu %s --images-dir %s --work-dir %s --log-file log %s", verb, images, work, args), log)
}

func (c chain) parent(flag string, k int) string {
	if k == 0 {
		return ""
	}
	return fmt.Sprintf(" %s ../%d", flag, k-1)
}

// criuPreDump is round k. In mode read the process stands still only until its pages
// are listed, as in Godwit's rounds.
func (c chain) criuPreDump(pid string, k int) string {
	return c.criu("pre-dump", k, "--tree "+pid+" --track-mem --pre-dump-mode read"+c.parent("--prev-images-dir", k))
}

// criuDump is the last dump, after which the process is gone. Cgroups would be the
// container's business, and there is none.
func (c chain) criuDump(pid string, k int) string {
	return c.criu("dump", k, "--tree "+pid+" --track-mem --manage-cgroups=ignore"+c.parent("--prev-images-dir", k))
}

// criuRestore restores from dump k and its parents.
func (c chain) criuRestore(k int) string {
	return c.criu("restore", k, "--restore-detached --manage-cgroups=ignore")
}

// runc is a command of runc's on the container “bench”, which must not inherit the
// streams. runc's log tells why it failed.
func (c chain) runc(args string) string {
	log := c.work + "/runc.log"
	return explain("runc --root "+handRunc+" --log "+log+" "+args+" bench >/dev/null 2>&1", log)
}

// runcCheckpoint is dump k: a round, or the last.
func (c chain) runcCheckpoint(k int, round bool) string {
	images, work, _ := c.at(k)
	args := fmt.Sprintf("checkpoint --image-path %s --work-path %s", images, work)
	if round {
		args += " --pre-dump"
	}
	return c.runc(args + c.parent("--parent-path", k))
}

// runcRestore restores from dump k and its parents.
func (c chain) runcRestore(k int) string {
	images, work, _ := c.at(k)
	return c.runc(fmt.Sprintf("restore --detach --bundle %s --image-path %s --work-path %s", bundle, images, work))
}
