// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// book notes what a replayed test does, as “name: what”.
type book struct {
	name  string
	notes *[]string
	bad   bool
}

func (b *book) Helper()           {}
func (b *book) Log(args ...any)   { b.note("log", args) }
func (b *book) Error(args ...any) { b.bad = true; b.note("error", args) }
func (b *book) Skip(args ...any)  { b.note("skip", args) }

func (b *book) note(what string, args []any) {
	*b.notes = append(*b.notes, strings.TrimSpace(fmt.Sprintf("%s: %s %s", b.name, what, said(args))))
}

var place = regexp.MustCompile(`\w+\.go:\d+: `)

// said is what was said, without the line that said it.
func said(args []any) string {
	return place.ReplaceAllString(strings.Join(strings.Fields(fmt.Sprint(args...)), " "), "")
}

func (b *book) Run(name string, test func(*book)) bool {
	sub := &book{name: b.name + "/" + name, notes: b.notes}
	test(sub)
	sub.note("ended", nil)
	b.bad = b.bad || sub.bad
	return !sub.bad
}

// theirs is set in the environment of this binary when it plays the one whose
// tests are shown.
const theirs = "NODETEST_THEIRS"

// TestMain leaves TestTheirs to the processes that play the other binary.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(theirs) == "" {
		if err := flag.Set("test.skip", "^TestTheirs$"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestTheirs is shown by TestReplay.
func TestTheirs(t *testing.T) {
	t.Run("Passes", func(t *testing.T) {
		t.Run("Deep", func(t *testing.T) { t.Log("how deep") })
	})
	t.Run("Skips", func(t *testing.T) { t.Skip("not here") })
	switch os.Getenv(theirs) {
	case "fail":
		t.Run("Fails", func(t *testing.T) { t.Error("what is wrong") })
		t.Run("GoesOn", func(*testing.T) {})
	case "die":
		t.Run("Dies", func(*testing.T) { fmt.Println("last words"); os.Exit(3) })
	case "panic":
		t.Run("Panics", func(*testing.T) { panic("at the disco") })
	}
}

// events runs this binary's tests and returns what test2json makes of them.
func events(t *testing.T, mode, run string) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v=test2json", "-test.run="+run)
	cmd.Env = append(os.Environ(), theirs+"="+mode)
	out, _ := cmd.CombinedOutput() // failing is its business
	cmd = exec.CommandContext(t.Context(), "go", "tool", "test2json")
	cmd.Stdin = bytes.NewReader(out)
	if out, err = cmd.Output(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReplay(t *testing.T) {
	passes := []string{
		"/TestTheirs/Passes/Deep: log on the node how deep",
		"/TestTheirs/Passes/Deep: ended",
		"/TestTheirs/Passes: ended",
		"/TestTheirs/Skips: skip skipped on the node not here",
		"/TestTheirs/Skips: ended",
	}
	for name, c := range map[string]struct {
		mode, run string
		want      []string
		bad       bool
	}{
		"passes": {"pass", "TestTheirs", append(slices.Clone(passes), "/TestTheirs: ended"), false},
		"fails": {"fail", "TestTheirs", append(slices.Clone(passes),
			"/TestTheirs/Fails: error failed on the node what is wrong",
			"/TestTheirs/Fails: ended", "/TestTheirs/GoesOn: ended",
			"/TestTheirs: error failed on the node", "/TestTheirs: ended"), true},
		"dies": {"die", "TestTheirs", append(slices.Clone(passes),
			`/TestTheirs/Dies: error last words the output ends before the result of test "TestTheirs/Dies": EOF`,
			"/TestTheirs/Dies: ended",
			`/TestTheirs: error the output ends before the result of test "TestTheirs/Dies": EOF`, "/TestTheirs: ended",
			`: error the output ends before the result of test "TestTheirs/Dies": EOF`), true},
		"runs nothing":     {"pass", "TestNothing", []string{": error no test ran"}, true},
		"skips everything": {"pass", "TestTheirs/Skips", []string{passes[3], passes[4], "/TestTheirs: ended", ": error every test was skipped"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			b := &book{notes: &got}
			Replay(b, bytes.NewReader(events(t, c.mode, c.run)))
			if !slices.Equal(got, c.want) || b.bad != c.bad {
				t.Errorf("failed %t:\n%s\nwant failed %t:\n%s", b.bad, strings.Join(got, "\n"), c.bad, strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestReplayFindsCutOutputAndPanics(t *testing.T) {
	whole := events(t, "pass", "TestTheirs")
	for cut := range whole {
		if cut > 0 && whole[cut-1] != '\n' {
			continue
		}
		b := &book{notes: &[]string{}}
		if Replay(b, bytes.NewReader(whole[:cut])); !b.bad {
			t.Errorf("%d of %d bytes of output are taken for the whole", cut, len(whole))
		}
	}
	b := &book{notes: &[]string{}}
	if Replay(b, bytes.NewReader(events(t, "panic", "TestTheirs"))); !b.bad || !strings.Contains(strings.Join(*b.notes, ""), "at the disco") {
		t.Errorf("a panic is not told: %v", *b.notes)
	}
}
