// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/fsnotify/fsnotify"
	"google.golang.org/protobuf/proto"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

const predumpLog = "predump.log"

// resumed is what CRIU logs right after it has let the tasks of a pre-dump go
// on, its parasite removed.
const resumed = "Pre-dumping tasks' memory"

// PreDump copies memory while the container runs. The end of ctx ends it once
// the tasks run again, or CRIU waits for a file; at other points before killing
// CRIU could leave its parasite in them.
func (r *Runtime) PreDump(ctx context.Context, c runtime.Container, o runtime.DumpOptions) (runtime.DumpStats, error) {
	s := runtime.DumpStats{Start: time.Now()}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	d, err := openDirs(r.o.Host, o)
	if err != nil {
		return s, err
	}
	defer d.Close()
	// Statistics of an earlier round must not be taken for this one's.
	for _, name := range []string{predumpLog, "stats-dump"} {
		if err := os.RemoveAll(filepath.Join(host.FDPath(d.work), name)); err != nil {
			return s, err
		}
	}
	if err := ctx.Err(); err != nil {
		return s, err // the volume may have let us wait for long
	}
	watched, err := r.watched(ctx, c)
	if err != nil {
		return s, err
	}
	w, err := startWorker(r.o.Host, r.o.CRIU, group(c))
	if err != nil {
		return s, fmt.Errorf("%w: %w", runtime.ErrUnsupported, err)
	}
	stop := context.AfterFunc(ctx, func() {
		go r.killWhenBlocked(w.proc, c)
		killWhenResumed(w.proc, d.work)
	})
	opts := r.predumpOptions(c, o, d)
	if len(watched) > 0 {
		opts.IrmapScanPaths, opts.ForceIrmap = watched, proto.Bool(true)
	}
	_, err = w.call(&rpc.CriuReq{Type: rpc.CriuReqType_PRE_DUMP.Enum(), Opts: opts})
	stop()
	if err == nil {
		err = collect(d, o, preDump, &s)
	}
	s.Duration = time.Since(s.Start)
	if err != nil {
		r.setSplice(c.ID, true)
		return s, r.failed(ctx, "pre-dump", c, err, d, predumpLog)
	}
	return s, nil
}

// predumpOptions are the options of a pre-dump.
//
// Mode READ stops the tasks only to list their pages and to clear the tracking,
// and reads the memory after they run again. SPLICE holds them until all pages
// are pinned in pipes: a longer stop, and a pipe for every few pages. READ does
// not see areas that lack PROT_READ; a program that makes such an area readable
// between two rounds breaks the chain ("not found in parent"), and then the
// container's next chain uses SPLICE.
//
// No freezer cgroup is named: with one, CRIU waits in steps of 100 ms for the
// freezer, without it the tasks are stopped by ptrace at once.
func (r *Runtime) predumpOptions(c runtime.Container, o runtime.DumpOptions, d dirs) *rpc.CriuOpts {
	mode := rpc.CriuPreDumpMode_VM_READ
	if r.useSplice(c.ID) {
		mode = rpc.CriuPreDumpMode_SPLICE
	}
	opts := &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(int32(d.images.Fd())),
		WorkDirFd:   proto.Int32(int32(d.work.Fd())),
		Pid:         proto.Int32(int32(c.PID)),
		TrackMem:    proto.Bool(true),
		PreDumpMode: &mode,
		LogLevel:    proto.Int32(3), // from 4 on every area of memory has its line
		LogFile:     proto.String(predumpLog),
		Timeout:     proto.Uint32(uint32(r.o.SeizeTimeout / time.Second)),
	}
	if o.Parent != "" {
		opts.ParentImg = proto.String(o.Parent)
	}
	return opts
}

// killWhenResumed ends a pre-dump as soon as its log says that the tasks run
// again. When the log cannot be watched the pre-dump is left to end by itself.
func killWhenResumed(p *host.Process, work *os.File) {
	dir := host.FDPath(work)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return
	}
	defer w.Close()
	// The directory, for the log may not be there yet.
	if err := w.Add(dir); err != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The error is the business of PreDump, which waits as well.
		_, _ = p.Wait()
	}()
	for {
		if b, err := os.ReadFile(filepath.Join(dir, predumpLog)); err == nil && bytes.Contains(b, []byte(resumed)) {
			p.Kill()
			return
		}
		select {
		case <-ended:
			return
		case <-w.Events:
		case <-w.Errors: //nolint:errcheck // the next event, or the end, comes all the same
		}
	}
}

func (r *Runtime) useSplice(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.splice[id]
}

func (r *Runtime) setSplice(id string, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.splice[id] = true
	} else {
		delete(r.splice, id)
	}
}

// failed makes the error of a dump: with the lines of CRIU's log that tell why,
// and marked as what it means for the caller.
func (r *Runtime) failed(ctx context.Context, what string, c runtime.Container, err error, d dirs, log string) error {
	lines := readLogErrors(filepath.Join(host.FDPath(d.work), log))
	if exit, ok := errors.AsType[*host.ExitError](err); ok {
		exit.Log = lines
		// What runc itself could not write is in no log of CRIU's.
		lines = append(slices.Clone(lines), exit.Stderr)
	} else if len(lines) > 0 {
		err = &logError{err, lines}
	}
	if full(err, lines) || d.full() {
		err = fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	if cerr := ctx.Err(); cerr != nil {
		err = fmt.Errorf("%w: %w", cerr, err)
	}
	return fmt.Errorf("%s of %s: %w: %w", what, c.ID, runtime.ErrChainBroken, err)
}
