// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// errRegisterTaken: the register, or what the write depends on, is not as it
// was observed. Look again; the other side may have won.
var errRegisterTaken = errors.New("the handover register was written by another")

// patchOp is one operation of a JSON patch (RFC 6902).
type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// registerEmpty tests that the register has not been written: an absent path
// equals null for the API server.
var registerEmpty = patchOp{Op: "test", Path: "/status/handover", Value: nil}

// writeRegister writes the handover register if all tests hold. Tests in a JSON
// patch are stronger and cheaper than a resourceVersion: the API server checks
// them on the very object it then stores, and an unrelated write to the status
// in between (a message, a report) does not fail the commit.
func (s *sessionBase) writeRegister(ctx context.Context, h v1alpha1.Handover, tests ...patchOp) error {
	h.Time = metav1.NewMicroTime(s.Now())
	ops := append([]patchOp{{Op: "test", Path: "/metadata/uid", Value: s.uid}}, tests...)
	ops = append(ops, patchOp{Op: "add", Path: "/status/handover", Value: h})
	body, err := json.Marshal(ops)
	if err != nil {
		return fmt.Errorf("encode register: %w", err)
	}
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: s.key.Namespace, Name: s.key.Name}}
	err = s.Client.Status().Patch(ctx, m, client.RawPatch(types.JSONPatchType, body))
	switch {
	case apierrors.IsNotFound(err):
		return errGone
	case apierrors.IsInvalid(err), apierrors.IsConflict(err):
		return fmt.Errorf("%w: %w", errRegisterTaken, err)
	case err != nil:
		return fmt.Errorf("write register %s: %w", h.State, notAllowed("register", err))
	}
	return nil
}

// abort writes Aborted into the empty register.
func (s *sessionBase) abort(ctx context.Context, r role, f v1alpha1.Failure) error {
	return s.writeRegister(ctx, v1alpha1.Handover{
		State: v1alpha1.HandoverAborted, By: string(r) + "/" + s.NodeName, Reason: f.Reason, Message: f.Message,
	}, registerEmpty)
}

// commit writes Committed into the empty register, provided the migration is
// still switching over and the source still publishes the verified digest.
func (s *sessionBase) commit(ctx context.Context, digest string) error {
	return s.writeRegister(ctx, v1alpha1.Handover{
		State: v1alpha1.HandoverCommitted, By: string(roleTarget) + "/" + s.NodeName, ManifestDigest: digest,
		Message: "the image set is verified; the target restores it",
	}, registerEmpty,
		patchOp{Op: "test", Path: "/status/phase", Value: v1alpha1.PhaseSwitchingOver},
		patchOp{Op: "test", Path: "/status/source/manifestDigest", Value: digest})
}

// takeBack writes Committed → Aborted. The caller has seen that nothing of the
// restored tree runs.
func (s *sessionBase) takeBack(ctx context.Context, f v1alpha1.Failure) error {
	by := string(roleTarget) + "/" + s.NodeName
	return s.writeRegister(ctx, v1alpha1.Handover{
		State: v1alpha1.HandoverAborted, By: by, Reason: f.Reason, Message: f.Message,
	}, patchOp{Op: "test", Path: "/status/handover/state", Value: v1alpha1.HandoverCommitted},
		patchOp{Op: "test", Path: "/status/handover/by", Value: by})
}
