// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// observeRequest finds out who wrote a request that was not answered yet. The
// cache drops the managed fields, so they are read from the API server.
func (r *MigrationReconciler) observeRequest(ctx context.Context, w *world) error {
	if !migration.Unanswered(w.Migration) {
		return nil
	}
	live := &v1alpha1.Migration{}
	if err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(w.Migration), live); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	w.RequestedBy = managerOf(live, v1alpha1.AnnotationResolve)
	return nil
}

// managerOf is the last field manager of an annotation; "" when there is none.
func managerOf(m *v1alpha1.Migration, annotation string) string {
	field := []byte(fmt.Sprintf("%q:", "f:"+annotation))
	for _, f := range m.ManagedFields {
		if f.Subresource == "" && f.FieldsV1 != nil && bytes.Contains(f.FieldsV1.GetRawBytes(), field) {
			return f.Manager
		}
	}
	return ""
}

// closeRequest removes a request that was answered, so that it can be made
// again. It is told apart from a new one by the status alone, which says whether
// the removal has been seen: a removal that fails is repeated.
func (r *MigrationReconciler) closeRequest(ctx context.Context, m *v1alpha1.Migration) error {
	request, answered := m.Annotations[v1alpha1.AnnotationResolve]
	if !answered || m.Status.Resolution == nil || migration.Unanswered(m) {
		return nil
	}
	const path = "/metadata/annotations/godwit.dev~1resolve"
	body, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": m.UID},
		{"op": "test", "path": path, "value": request},
		{"op": "remove", "path": path},
	})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	err = r.Client.Patch(ctx, m.DeepCopy(), client.RawPatch(types.JSONPatchType, body), client.FieldOwner(v1alpha1.FieldManagerController))
	// A test that fails means that it is not there any more.
	if client.IgnoreNotFound(err) != nil && !apierrors.IsInvalid(err) {
		return fmt.Errorf("remove the answered request: %w", err)
	}
	return nil
}

// projectResolution records an answer, or that the answered request is gone.
func projectResolution(m *v1alpha1.Migration, d migration.Decision) {
	switch r := m.Status.Resolution; {
	case d.Resolution != nil:
		m.Status.Resolution = d.Resolution.DeepCopy()
		m.Status.Resolution.Message = migration.Shorten(d.Resolution.Message, maxMessage)
	case r != nil && !r.Closed && m.Annotations[v1alpha1.AnnotationResolve] == "":
		r.Closed = true
	}
}
