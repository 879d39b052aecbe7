// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"strings"
	"testing"
)

func TestEmbeddedVersionsAreValid(t *testing.T) {
	v, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if v != Get() {
		t.Errorf("Get() = %+v, want %+v", Get(), v)
	}
}

func TestParseRefusesWhatIsIncompleteOrUnknown(t *testing.T) {
	whole := string(file)
	for name, content := range map[string]string{
		"missing":            strings.Replace(whole, "runc: ", "# runc: ", 1),
		"unknown":            whole + "\nrunk: v1.0.0\n",
		"not a module":       strings.Replace(whole, "runc: v", "runc: ", 1),
		"not even a mapping": "- a\n",
	} {
		if _, err := Parse([]byte(content)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
