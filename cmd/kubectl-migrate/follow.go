// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/progress"
)

// errDeleted: somebody deleted the Migration while it was watched.
var errDeleted = errors.New("the migration was deleted")

// follow calls see with the Migration as it is and after each change until it
// is finished, and returns it as it was last. Interrupted watches go on from
// where they were.
func follow(ctx context.Context, c client.WithWatch, key client.ObjectKey, see func(*v1alpha1.Migration) error) (*v1alpha1.Migration, error) {
	for {
		m := &v1alpha1.Migration{}
		if err := c.Get(ctx, key, m); err != nil {
			return nil, fmt.Errorf("get migration: %w", err)
		}
		if err := see(m); err != nil || migration.Finished(m.Status.Phase) {
			return m, err
		}
		last, err := followFrom(ctx, c, m, see)
		// An expired resource version: look at it anew.
		if err != nil || migration.Finished(last.Status.Phase) {
			return last, err
		}
	}
}

// followFrom watches from m on until it is finished or the server no longer
// knows what has happened since.
func followFrom(ctx context.Context, c client.WithWatch, m *v1alpha1.Migration, see func(*v1alpha1.Migration) error) (*v1alpha1.Migration, error) {
	w, err := watchtools.NewRetryWatcherWithContext(ctx, m.ResourceVersion, watcher{c, client.ObjectKeyFromObject(m)})
	if err != nil {
		return m, fmt.Errorf("watch migration: %w", err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case e, open := <-w.ResultChan():
			if !open {
				return m, ctx.Err()
			}
			if e.Type == watch.Error {
				err := apierrors.FromObject(e.Object)
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					return m, nil
				}
				return m, fmt.Errorf("watch migration: %w", err)
			}
			got, ok := e.Object.(*v1alpha1.Migration)
			switch {
			case !ok || got.Name != m.Name:
				continue
			case got.UID != m.UID, e.Type == watch.Deleted:
				return got, errDeleted
			}
			m = got
			if err := see(m); err != nil || migration.Finished(m.Status.Phase) {
				return m, err
			}
		}
	}
}

// watcher watches one Migration.
type watcher struct {
	c   client.WithWatch
	key client.ObjectKey
}

// WatchWithContext implements cache.WatcherWithContext.
func (w watcher) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return w.c.Watch(ctx, &v1alpha1.MigrationList{}, &client.ListOptions{
		Namespace:     w.key.Namespace,
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, w.key.Name),
		Raw:           &o,
	})
}

// show shows a migration until it is finished; errNotDone unless it succeeded.
func (o *options) show(ctx context.Context, c client.WithWatch, key client.ObjectKey) error {
	m, err := follow(ctx, c, key, progress.NewPrinter(o.Out, o.width).Update)
	if err != nil {
		return err
	}
	return verdict(m)
}

// showUntilDone is show for a migration that goes on when nobody looks.
func (o *options) showUntilDone(ctx context.Context, c client.WithWatch, key client.ObjectKey) error {
	err := o.show(ctx, c, key)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("stopped watching, the migration goes on: kubectl migrate watch -n %s %s", key.Namespace, key.Name)
	}
	return err
}

// verdict is errNotDone, with the reason, unless the migration succeeded.
func verdict(m *v1alpha1.Migration) error {
	if m.Status.Phase == v1alpha1.PhaseSucceeded {
		return nil
	}
	reason := ""
	if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionComplete); c != nil {
		reason = ", " + c.Reason
	}
	return fmt.Errorf("%w: %s%s", errNotDone, m.Status.Phase, reason)
}
