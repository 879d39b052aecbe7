// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// errDecided: the migration was decided while its images were being read.
var errDecided = errors.New("decided meanwhile")

// reading is onVolume for as long as nothing is decided: the images of a migration
// that was aborted are removed, and would be waited for in vain.
func reading[T any](ctx context.Context, t *targetSession, limit time.Duration, what string, f func(ctx context.Context) (T, error)) (T, error) {
	undecided, decided := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for undecided.Err() == nil {
			m, err := t.get(undecided, t.Client)
			if errors.Is(err, errGone) || err == nil && m.Status.Handover != nil {
				decided(errDecided)
				return
			}
			t.await(undecided, never)
		}
	})
	v, err := onVolume(undecided, &t.sessionBase, limit, what, f)
	decided(nil)
	wg.Wait()
	if err != nil && errors.Is(context.Cause(undecided), errDecided) {
		err = fmt.Errorf("%s: %w", what, errDecided)
	}
	return v, err
}

// failReading is fail for a set that could not be read: it is not as it should
// be, or the volume does not answer, which says nothing about the set.
func (t *targetSession) failReading(ctx context.Context, m *v1alpha1.Migration, cause error) error {
	switch {
	case errors.Is(cause, errDecided):
		return nil // the next look shows it
	case errors.Is(cause, errStuck):
		return cause
	case errors.Is(cause, errNoAnswer), errors.Is(cause, context.DeadlineExceeded):
		return t.fail(ctx, m, v1alpha1.ReasonVolumeError, cause)
	}
	return t.fail(ctx, m, v1alpha1.ReasonImageSetInvalid, cause)
}
