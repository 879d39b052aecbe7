// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package failpoint

import (
	"os/exec"
	"strings"
	"testing"
)

const library = "github.com/pingcap/failpoint"

// What is shipped contains no failpoints, and what the fault tests use does.
func TestOnlyTheTaggedProgramsContainFailpoints(t *testing.T) {
	for _, program := range []string{"cmd/manager", "cmd/godwit-runc", "node-agent"} {
		for tags, want := range map[string]bool{"": false, "failpoints": true} {
			out, err := exec.Command("go", "list", "-deps", "-tags", tags, "godwit.dev/godwit/"+program).Output()
			if err != nil {
				t.Fatalf("go list: %v", err)
			}
			if got := strings.Contains(string(out), library+"\n"); got != want {
				t.Errorf("%s with the tags %q depends on %s: %v, want %v", program, tags, library, got, want)
			}
		}
	}
}
