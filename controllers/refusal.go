// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// undecided are parts of what an API server says when it refuses what it cannot judge
// yet, as Forbidden or Invalid. One that has just started does not know the kind that a
// policy is about until it has found the kind's definition, for which it looks every half
// minute, and knows none of that kind until it has read them; and none of its policies
// before that.
// (k8s.io/apiserver/pkg/admission/plugin/policy/generic)
var undecided = []string{"failed to configure policy", "failed to configure binding", "not yet ready to handle request"}

// refusesPod says whether the API server has something against a pod that was to be made,
// or, in the end of a sentence about what is to be waited for, that it cannot judge it yet.
func refusesPod(err error) (refused bool, missing string) {
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
		return false, ""
	}
	for _, part := range undecided {
		if strings.Contains(err.Error(), part) {
			return false, "the API server can judge new pods: " + err.Error()
		}
	}
	return true, ""
}
