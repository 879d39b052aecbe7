// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = 500 * time.Millisecond
	// listingSettle is how long a listing may lack a name that must be there. A
	// negative entry can be left by whoever asked for a name too early, but a
	// cached listing only by whoever read the directory before the file came; and
	// no directory of a set is read on the target before it was reported
	// complete. What is not listed has been removed, and the source may stand
	// frozen while we wait. The tries are for servers that are behind themselves.
	listingSettle = 2 * time.Second
)

// errUnlisted: a directory that was opened anew does not list the name.
var errUnlisted = fmt.Errorf("not listed: %w", fs.ErrNotExist)

// untilThere calls f until what it looks for is there, at most for the store's
// settle time, and for listingSettle when it is a listing that lacks it. f opens
// everything anew from the root: that, not the time, is what makes an NFS client
// forget that a name did not exist.
func (s *Store) untilThere(ctx context.Context, f func() error) error {
	deadline := time.NewTimer(s.settle)
	defer deadline.Stop()
	var unlisted time.Time
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		err := f()
		switch {
		case !notThere(err):
			return err
		case !errors.Is(err, errUnlisted):
			unlisted = time.Time{}
		case unlisted.IsZero():
			unlisted = time.Now()
		case time.Since(unlisted) >= listingSettle:
			return missing(err)
		}
		retry := time.NewTimer(pause)
		select {
		case <-retry.C:
		case <-deadline.C:
			retry.Stop()
			return missing(err)
		case <-ctx.Done():
			retry.Stop()
			return errors.Join(ctx.Err(), missing(err))
		}
	}
}

// missing says for good that something is not there.
func missing(err error) error {
	var fe *FileError
	if errors.As(err, &fe) {
		return &FileError{Name: fe.Name, Err: ErrMissing, Detail: fe.Err.Error()}
	}
	return &FileError{Err: ErrMissing, Detail: err.Error()}
}
