// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// followInterval is how often a dump that is being written is looked at. It writes
// thousands of times a second: being told of each would cost more.
const followInterval = 50 * time.Millisecond

// following hashes the memory of one dump while CRIU writes it. CRIU only ever appends to
// these files, so a piece that is there is what it will be. If it was not, the manifest
// would not be true, and the target would refuse the set.
type following struct {
	over chan struct{}
	once sync.Once

	// done is closed when nothing is read any more; then files is valid.
	done  chan struct{}
	files map[string]*followed
}

// followed is the beginning of a file.
type followed struct {
	f     *os.File
	inode uint64
	// sums of its first pieces.
	sums []byte
}

// FollowRound hashes round k of a container while it is written, so that HashRound has
// little left to read when it is finished. The directory was prepared, and nothing is
// written there any more when the returned function is called, which does not wait.
func (s *Set) FollowRound(container string, k int) (over func(), err error) {
	if err := checkRound(container, k); err != nil {
		return nil, err
	}
	return s.follow(container, RoundName(k)), nil
}

// FollowFinal is FollowRound for the final dump and Seal.
func (s *Set) FollowFinal(container string) (over func(), err error) {
	if err := checkRound(container, 0); err != nil {
		return nil, err
	}
	return s.follow(container, finalName), nil
}

func (s *Set) follow(container, name string) (over func()) {
	f := &following{over: make(chan struct{}), done: make(chan struct{}), files: map[string]*followed{}}
	s.mu.Lock()
	s.follows[container+"/"+name] = f
	s.mu.Unlock()
	go func() {
		defer close(f.done)
		// What cannot be read now is read, and complained about, later.
		if d, err := s.openDir(container, name); err == nil {
			f.run(d)
			d.close()
		}
	}()
	return f.end
}

// endFollowing returns, and forgets, what is known of a directory that was followed, nil if
// it was not. None of its files is open any more: NFS keeps the name of one that is, and
// with it the directory.
func (s *Set) endFollowing(ctx context.Context, container, name string) map[string]*followed {
	key := container + "/" + name
	s.mu.Lock()
	f := s.follows[key]
	delete(s.follows, key)
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	f.end()
	select {
	case <-f.done:
		return f.files
	case <-ctx.Done():
		return nil
	}
}

// endAllFollowing is endFollowing for all that are followed.
func (s *Set) endAllFollowing(ctx context.Context) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.follows))
	clear(s.follows)
	s.mu.Unlock()
	for _, f := range all {
		f.end()
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
}

func (f *following) end() { f.once.Do(func() { close(f.over) }) }

func (f *following) isOver() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

func (f *following) run(d *dir) {
	defer func() {
		for _, file := range f.files {
			_ = file.f.Close()
		}
	}()
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		select {
		case <-f.over:
			return
		case <-tick.C:
		}
		if f.look(d) != nil {
			return
		}
		for _, file := range f.files {
			for !f.isOver() && file.grown() {
				if readAt(file.f, *buf, file.at()) != nil {
					return
				}
				sum := sha256.Sum256(*buf)
				file.writeBack()
				file.sums = append(file.sums, sum[:]...)
			}
		}
	}
}

// look opens the files that are new. Only those with pages are large.
func (f *following) look(d *dir) error {
	entries, err := d.list()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if f.files[e.Name()] != nil || !strings.HasPrefix(e.Name(), pagesPrefix) {
			continue
		}
		file, id, err := d.openFile(e.Name())
		if err != nil {
			return err
		}
		f.files[e.Name()] = &followed{f: file, inode: id.Inode}
	}
	return nil
}

// at is where the next piece begins.
func (w *followed) at() int64 { return int64(len(w.sums)/sumSize) * pieceSize }

// grown says whether the next piece is there as a whole. The server is not asked, which
// would first have everything written back to it.
func (w *followed) grown() bool {
	var st unix.Statx_t
	err := unix.Statx(int(w.f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_SIZE, &st)
	return err == nil && int64(st.Size) >= w.at()+pieceSize
}

// writeBack sends the next piece on its way to the server, and does not wait. The kernel
// keeps what is written until much of the node's memory is, or for half a minute, and all
// of it would go when the dump has ended, before it counts as finished. Whether it worked
// is seen then.
func (w *followed) writeBack() {
	_ = unix.SyncFileRange(int(w.f.Fd()), w.at(), pieceSize, unix.SYNC_FILE_RANGE_WRITE)
}

// known are the hashes of the first pieces of a file, of so many bytes at the most.
func (w *followed) known(id identity) []byte {
	if w == nil || w.inode != id.Inode {
		return nil
	}
	return w.sums[:min(int64(len(w.sums)), id.Size/pieceSize*sumSize)]
}
