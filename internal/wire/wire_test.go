// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestMessagesArriveAsSent(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	sent := []versioned{
		&Request{Version: Version, PodUID: "uid", ContainerName: "app", SandboxID: "s", ContainerID: "c", Bundle: "/b"},
		&Request{Version: Version, PodUID: "uid", ContainerName: "app", ContainerID: "c", Waited: time.Second, Parked: true,
			Result: &Result{Version: Version, PID: 7, Start: start, Duration: time.Second}},
		&Reply{Version: Version, Verdict: Noted},
		&Reply{Version: Version, Verdict: Park},
		&Reply{Version: Version, Verdict: Prepare, Images: &Images{Dir: "/i", WorkDir: "/w"}},
		&Reply{Version: Version, Verdict: Fail, Reason: "ImageSetInvalid", Message: "two\nlines"},
		&Reply{Version: Version, Verdict: Restore, Images: &Images{Dir: "/i", WorkDir: "/w", CRIUConfig: "/c", Timeout: time.Minute}},
		&Result{Version: Version, PID: 7, Start: start, Duration: time.Second, Error: "x"},
	}
	var buf bytes.Buffer
	for _, m := range sent {
		if err := Write(&buf, m); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&buf)
	for _, want := range sent {
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface().(versioned)
		if err := r.Read(got); err != nil {
			t.Fatalf("%T: %v", want, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if err := r.Read(&Reply{}); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want error
	}{
		"nothing":          {"", io.EOF},
		"half a message":   {`{"version":4`, io.ErrUnexpectedEOF},
		"no newline":       {`{"version":4}`, io.ErrUnexpectedEOF},
		"no version":       {"{}\n", ErrVersion},
		"newer version":    {`{"version":5}` + "\n", ErrVersion},
		"endless line":     {strings.Repeat("x", MaxMessage+10), ErrTooLarge},
		"line too long":    {strings.Repeat(" ", MaxMessage) + `{"version":4}` + "\n", ErrTooLarge},
		"nothing but text": {"hello\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := NewReader(strings.NewReader(tc.in)).Read(&Reply{})
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestWriteRefusesWhatReadWould(t *testing.T) {
	var buf bytes.Buffer
	err := Write(&buf, &Reply{Version: Version, Message: strings.Repeat("x", MaxMessage)})
	if !errors.Is(err, ErrTooLarge) || buf.Len() != 0 {
		t.Errorf("got %v, %d bytes written", err, buf.Len())
	}
	// The largest message that Write lets pass is read.
	m := &Reply{Version: Version}
	b, err := json.Marshal(&Reply{Version: Version, Message: "x"})
	if err != nil {
		t.Fatal(err)
	}
	m.Message = strings.Repeat("x", MaxMessage-1-len(b)+1)
	if err := Write(&buf, m); err != nil {
		t.Fatal(err)
	}
	got := &Reply{}
	if err := NewReader(&buf).Read(got); err != nil || got.Message != m.Message {
		t.Errorf("largest message: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"version":4,"verdict":"restore","images":{"dir":"/i","workDir":"/w","timeout":1}}` + "\n"))
	f.Add([]byte(`{"version":4,"podUID":"u","containerName":"c"}` + "\n" + `{"version":3,"pid":1}` + "\n"))
	f.Add([]byte(`{"version":4,"podUID":"u","containerName":"c","waited":5,"parked":true}` + "\n"))
	f.Add([]byte(`{"version":4,"podUID":"u","waited":-1,"result":{"version":3,"error":"x","start":"2026-01-02T03:04:05Z","duration":1}}` + "\n"))
	f.Add([]byte("\n\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, msg := range []versioned{&Request{}, &Reply{}, &Result{}} {
			r := NewReader(bytes.NewReader(in))
			// Every Read takes at least one byte or ends: this loop is bounded.
			for range len(in) + 1 {
				err := r.Read(msg)
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrTooLarge) {
					break
				}
				if err != nil {
					continue
				}
				// What was understood can be said again and is then the same.
				var buf bytes.Buffer
				if err := Write(&buf, msg); err != nil {
					if errors.Is(err, ErrTooLarge) {
						continue
					}
					t.Fatal(err)
				}
				again := reflect.New(reflect.TypeOf(msg).Elem()).Interface().(versioned)
				if err := NewReader(&buf).Read(again); err != nil {
					t.Fatalf("cannot read what was written: %v", err)
				}
				if a, b := mustJSON(t, msg), mustJSON(t, again); !bytes.Equal(a, b) {
					t.Fatalf("%s became %s", a, b)
				}
			}
		}
	})
}

func mustJSON(t *testing.T, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
