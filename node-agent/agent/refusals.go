// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// errNotAllowed: the API server does not let this agent write that. Its token is
// another node's, its role lacks a right, or it has misread which side it is on.
// Trying again is useless until one of them changes.
var errNotAllowed = errors.New("this agent is not allowed to write that")

// notAllowed marks and counts a write that was forbidden; other errors, and nil,
// are returned as they are.
func notAllowed(what string, err error) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	writesRefused.WithLabelValues(what).Inc()
	return fmt.Errorf("%w: %w", errNotAllowed, err)
}

// countRefusal counts an image set that was refused, and says whether it was.
func countRefusal(err error) bool {
	kind := runtime.RefusalOf(err)
	if kind == "" {
		return false
	}
	imageSetRefusals.WithLabelValues(string(kind)).Inc()
	return true
}

// unpackFailure is why packed files could not be applied to a target.
func unpackFailure(err error) *v1alpha1.Failure {
	reason := v1alpha1.ReasonRestoreFailed
	if countRefusal(err) {
		reason = v1alpha1.ReasonImageSetInvalid
	}
	return &v1alpha1.Failure{Reason: reason, Message: "apply file differences: " + err.Error()}
}
