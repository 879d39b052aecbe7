// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package thread

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

const envNested = "GODWIT_TEST_FIRST_THREAD"

// TestMain does, when it is asked to, what a program does whose main function calls Do:
// the first thread waits, and is the likeliest to be given the next goroutine.
func TestMain(m *testing.M) {
	if os.Getenv(envNested) == "" {
		os.Exit(m.Run())
	}
	for range 200 {
		if err := Do(func() error {
			if first() {
				return errors.New("on the first thread of the process")
			}
			return nil
		}); err != nil {
			println(err.Error())
			os.Exit(1)
		}
	}
}

func TestTheFirstThreadIsNeverTaken(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// One processor makes it certain: without the detour the first call fails.
	for _, processors := range []string{"1", "2"} {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), envNested+"=1", "GOMAXPROCS="+processors)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with %s processors: %v: %s", processors, err, out)
		}
	}
}

func TestNothingElseRunsOnTheThread(t *testing.T) {
	for range 20 {
		var own int
		if err := Do(func() error { own = unix.Gettid(); return nil }); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			other := make(chan int)
			go func() { other <- unix.Gettid() }()
			if <-other == own {
				t.Fatalf("thread %d was used again", own)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	want := errors.New("this one")
	if got := Do(func() error { return want }); !errors.Is(got, want) {
		t.Errorf("Do = %v, want %v", got, want)
	}
}
