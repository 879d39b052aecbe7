// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package tsc

import "testing"

func TestKHzIsStable(t *testing.T) {
	a, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	b, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	if a < 100_000 || a > 20_000_000 {
		t.Errorf("%d kHz is no processor's rate", a)
	}
	// The guests' kernel rejects its own measurement when it differs from the
	// given rate by more than a hundredth.
	if diff := a - b; diff > a/500 || -diff > a/500 {
		t.Errorf("two measurements: %d and %d kHz", a, b)
	}
	t.Logf("%d kHz", a)
}
