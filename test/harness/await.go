// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// Condition looks at an object and says whether what is waited for has come. It
// is called once for the present state and once for each change, in order. An
// error ends the waiting.
type Condition func(exists bool) (done bool, err error)

// Await watches one object, which has its namespace and name set, until cond
// says that it is done. The object holds the newest state whenever cond is
// called. It ends with an error that names what was waited for when ctx does.
func (h *Harness) Await(ctx context.Context, o client.Object, what string, cond Condition) error {
	for {
		done, version, err := h.look(ctx, o, cond)
		if err == nil && !done {
			done, err = h.follow(ctx, o, version, cond)
		}
		switch {
		case ctx.Err() != nil && !done:
			return fmt.Errorf("waited for %s: %w", what, errors.Join(context.Cause(ctx), err))
		case err != nil:
			return fmt.Errorf("wait for %s: %w", what, err)
		case done:
			return nil
		}
		// The watch ended, as watches do now and then: look again.
	}
}

// AwaitFor is Await with a limit.
func (h *Harness) AwaitFor(ctx context.Context, limit time.Duration, o client.Object, what string, cond Condition) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	return h.Await(ctx, o, what, cond)
}

// list reads the object as a list of at most one, which has a resource version
// to watch from even while the object does not exist.
func (h *Harness) list(o client.Object) (client.ObjectList, error) {
	gvk, err := apiutil.GVKForObject(o, h.Scheme())
	if err != nil {
		return nil, err
	}
	gvk.Kind += "List"
	list, err := h.Scheme().New(gvk)
	if err != nil {
		return nil, err
	}
	return list.(client.ObjectList), nil
}

func only(o client.Object) []client.ListOption {
	return []client.ListOption{
		client.InNamespace(o.GetNamespace()),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", o.GetName())},
	}
}

func (h *Harness) look(ctx context.Context, o client.Object, cond Condition) (done bool, version string, err error) {
	list, err := h.list(o)
	if err != nil {
		return false, "", err
	}
	if err := h.List(ctx, list, only(o)...); err != nil {
		return false, "", err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return false, "", err
	}
	if len(items) > 0 {
		take(o, items[0])
	}
	done, err = cond(len(items) > 0)
	return done, list.GetResourceVersion(), err
}

func (h *Harness) follow(ctx context.Context, o client.Object, version string, cond Condition) (bool, error) {
	list, err := h.list(o)
	if err != nil {
		return false, err
	}
	options := &client.ListOptions{}
	options.ApplyOptions(only(o))
	options.Raw = nil
	raw := options.AsListOptions()
	raw.ResourceVersion = version
	options.Raw = raw
	w, err := h.Watch(ctx, list, options)
	if err != nil {
		return false, err
	}
	defer w.Stop()
	// Not every watch ends with its context.
	defer context.AfterFunc(ctx, w.Stop)()
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Added, watch.Modified, watch.Deleted:
			take(o, e.Object)
			if done, err := cond(e.Type != watch.Deleted); done || err != nil {
				return done, err
			}
		case watch.Error:
			if err := apierrors.FromObject(e.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
				return false, err
			}
			return false, nil
		}
	}
	return false, ctx.Err()
}

// take makes *o the object that was read.
func take(o client.Object, from any) {
	reflect.ValueOf(o).Elem().Set(reflect.ValueOf(from).Elem())
}
