// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package redisload

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is a Store that can be made to fail.
type memory struct {
	mu   sync.Mutex
	keys map[string][]byte
	// fail decides about each Set: its error, and whether it is done all the same.
	fail func(key string) (err error, done bool)
}

func newMemory() *memory { return &memory{keys: map[string][]byte{}} }

func (m *memory) Set(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err, done := m.fail(key); err != nil {
			if done {
				m.keys[key] = value
			}
			return err
		}
	}
	m.keys[key] = value
	return nil
}

func (m *memory) SetMany(ctx context.Context, keys []string, values [][]byte) error {
	for i, k := range keys {
		if err := m.Set(ctx, k, values[i]); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Get(_ context.Context, keys ...string) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = m.keys[k]
	}
	return values, nil
}

func (m *memory) Size(context.Context) (int, error) { return len(m.keys), nil }

func filled(t *testing.T) (*memory, *Ledger) {
	t.Helper()
	m := newMemory()
	l := NewLedger(m)
	if err := l.Fill(t.Context(), 100, 2000, nil); err != nil {
		t.Fatal(err)
	}
	return m, l
}

func verify(t *testing.T, l *Ledger) Report {
	t.Helper()
	r, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerifyComparesEveryKey(t *testing.T) {
	_, l := filled(t)
	if r := verify(t, l); !r.OK() || r.Keys != 100 || r.Bytes != 200000 {
		t.Errorf("report %+v", r)
	}
}

func TestVerifyFindsEveryKindOfLoss(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(*memory)
		found  string
	}{
		"gone":    {func(m *memory) { delete(m.keys, "key:7") }, "found nothing"},
		"a byte":  {func(m *memory) { m.keys["key:7"] = flip(m.keys["key:7"]) }, "other bytes"},
		"older":   {func(m *memory) { m.keys["key:7"] = value(7, 1, 2000) }, "found version 1"},
		"other":   {func(m *memory) { m.keys["key:7"] = value(8, 2, 2000) }, "something else"},
		"shorter": {func(m *memory) { m.keys["key:7"] = m.keys["key:7"][:50] }, "other bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			m, l := filled(t)
			if err := l.Write(t.Context(), 7, 0); err != nil {
				t.Fatal(err)
			}
			c.damage(m)
			r := verify(t, l)
			if r.OK() || r.Lost != 1 || len(r.Losses) != 1 || !strings.Contains(r.Losses[0], c.found) {
				t.Errorf("report %+v, want a loss with %q", r, c.found)
			}
		})
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

func TestVerifyFindsKeysThatNobodyWrote(t *testing.T) {
	m, l := filled(t)
	m.keys["stranger"] = nil
	if r := verify(t, l); r.OK() || r.Surplus != 1 {
		t.Errorf("report %+v", r)
	}
}

func TestAnUnacknowledgedWriteMayBeThereOrNot(t *testing.T) {
	for name, done := range map[string]bool{"done": true, "not done": false} {
		t.Run(name, func(t *testing.T) {
			m, l := filled(t)
			broken := errors.New("connection reset")
			m.fail = func(string) (error, bool) { return broken, done }
			for _, i := range []int{3, l.Keys()} {
				if err := l.Write(t.Context(), i, 100); !errors.Is(err, broken) {
					t.Fatalf("Write(%d) = %v", i, err)
				}
			}
			if r := verify(t, l); !r.OK() {
				t.Fatalf("report %+v", r)
			}
			// Written again and acknowledged, it is the only one that counts.
			m.fail = nil
			before := maps.Clone(m.keys)
			if err := l.Write(t.Context(), 3, 0); err != nil {
				t.Fatal(err)
			}
			if r := verify(t, l); !r.OK() {
				t.Fatalf("report %+v", r)
			}
			if !done {
				m.keys["key:3"] = before["key:3"]
				if r := verify(t, l); r.Lost != 1 {
					t.Errorf("an older version went unseen: %+v", r)
				}
			}
		})
	}
}

func TestLoadGoesOnAfterErrorsAndMeasuresTheGap(t *testing.T) {
	m, l := filled(t)
	load := StartLoad(t.Context(), l, Pace{Interval: time.Millisecond, NewKeySize: 100, MaxNewKeys: 20})
	if err := load.AwaitOperations(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	const outage = 100 * time.Millisecond
	var began time.Time
	load.ResetGap()
	m.mu.Lock()
	m.fail = func(string) (error, bool) {
		if began.IsZero() {
			began = time.Now()
		}
		if time.Since(began) < outage {
			return errors.New("frozen"), false
		}
		return nil, false
	}
	m.mu.Unlock()
	if err := load.AwaitOperations(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	s := load.Stop()
	if s.Errors == 0 || s.LastError == nil || s.Writes == 0 || s.Reads == 0 || len(s.Losses) > 0 {
		t.Errorf("stats %+v", s)
	}
	if got := s.Longest.Length(); got < outage {
		t.Errorf("longest gap %s, the outage was %s", got, outage)
	}
	if l.Keys() != 120 {
		t.Errorf("%d keys, want 100 and 20 more", l.Keys())
	}
	if r := verify(t, l); !r.OK() {
		t.Errorf("report %+v", r)
	}
}

func TestLoadSeesLossesWhileReading(t *testing.T) {
	m, l := filled(t)
	clear(m.keys)
	load := StartLoad(t.Context(), l, Pace{Interval: time.Millisecond, NewKeySize: 100, MaxNewKeys: 1})
	if err := load.AwaitOperations(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	if s := load.Stop(); len(s.Losses) == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestParseIdentity(t *testing.T) {
	const info = "# Server\r\nredis_version:8.0.2\r\nprocess_id:1\r\nrun_id:abc\r\nserver_time_usec:1700000010500000\r\nuptime_in_seconds:10\r\n"
	id, err := parseIdentity(info)
	if err != nil || id.RunID != "abc" || id.PID != 1 || !id.Started.Equal(time.Unix(1700000000, 0)) {
		t.Fatalf("identity %+v, %v", id, err)
	}
	later := id
	later.Started = id.Started.Add(time.Second)
	if !id.Same(later) {
		t.Error("a second's difference makes another process")
	}
	later.RunID = "abd"
	if id.Same(later) {
		t.Error("another run id makes the same process")
	}
	if _, err := parseIdentity("run_id:abc\r\n"); err == nil {
		t.Error("incomplete information was accepted")
	}
}
