// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"time"
)

const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = 500 * time.Millisecond
)

// untilThere calls f until what it looks for is there, at most for the store's
// settle time. f opens everything anew from the root: that, not the time, is
// what makes an NFS client forget that a name did not exist.
func (s *Store) untilThere(ctx context.Context, f func() error) error {
	deadline := time.NewTimer(s.settle)
	defer deadline.Stop()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		err := f()
		if !notThere(err) {
			return err
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
