// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTraces(t *testing.T) {
	rs := synthetic()
	for i := range rs {
		rs[i].At = time.Unix(int64(len(rs)-i), 0) // the other way round
	}
	rs = append(rs, result{Method: precopy, Error: "failed", Reported: &reported{}, Final: &dump{}})
	all := traces(rs)
	if len(all) != 10 {
		t.Fatalf("%d traces", len(all))
	}
	first := all[0]
	if first.Cell != "64MiB-1%-uniform/precopy" || first.Handover != 140*time.Millisecond || len(first.Rounds) != 2 || first.Rounds[1].Bytes != 1<<20 || first.FinalBytes != 8<<20 {
		t.Errorf("the first: %+v", first)
	}
}

func TestTraceFile(t *testing.T) {
	dir := t.TempDir()
	st := &store{file: filepath.Join(dir, "bench.json")}
	out := filepath.Join(dir, "out.json")
	if err := st.add(result{Method: floor}); err != nil {
		t.Fatal(err)
	}
	if err := traceFile([]string{"-o", out, st.file}); err == nil {
		t.Error("wrote traces of nothing")
	}
	if err := st.add(synthetic()[0]); err != nil {
		t.Fatal(err)
	}
	if err := traceFile([]string{"-o", out, st.file}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(out); err != nil || len(b) == 0 {
		t.Errorf("%q, %v", b, err)
	}
}
