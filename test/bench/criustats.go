// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"
	"google.golang.org/protobuf/proto"
)

// pageSize of the nodes.
const pageSize = 4096

// statsScript prints a line "NAME CONTENT" for each file of statistics that CRIU has
// left below a directory: its name from there on, and its content in base64.
const statsScript = `cd %s && find . -name 'stats-*' -printf '%%P\n' | while read -r f; do echo "$f $(base64 -w 0 "$f")"; done`

// parseStats reads what statsScript prints.
func parseStats(text string) (map[string]*stats.StatsEntry, error) {
	all := map[string]*stats.StatsEntry{}
	for line := range strings.Lines(text) {
		name, content, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return nil, fmt.Errorf("line %q of CRIU's statistics", line)
		}
		data, err := base64.StdEncoding.DecodeString(content)
		if err == nil {
			all[name], err = decodeStats(data)
		}
		if err != nil {
			return nil, fmt.Errorf("CRIU's statistics %s: %w", name, err)
		}
	}
	return all, nil
}

// What a file of statistics begins with.
const (
	serviceMagic = 0x55105940
	statsMagic   = 0x57093306
)

// decodeStats reads a file of statistics: two magic numbers, a size and a message.
// The library reads files of its own machine only.
func decodeStats(data []byte) (*stats.StatsEntry, error) {
	if len(data) < 12 || binary.LittleEndian.Uint32(data) != serviceMagic || binary.LittleEndian.Uint32(data[4:]) != statsMagic {
		return nil, errors.New("no file of statistics")
	}
	size, payload := binary.LittleEndian.Uint32(data[8:]), data[12:]
	if uint64(size) > uint64(len(payload)) {
		return nil, errors.New("the file is cut off")
	}
	s := &stats.StatsEntry{}
	return s, proto.Unmarshal(payload[:size], s)
}

func micros(n uint32) float64 { return (time.Duration(n) * time.Microsecond).Seconds() }

// dumpFrom makes a dump of CRIU's statistics, with the time its command took.
func dumpFrom(s *stats.StatsEntry, took time.Duration) dump {
	d := s.GetDump()
	return dump{
		Seconds: took.Seconds(), FrozenSeconds: micros(d.GetFreezingTime()) + micros(d.GetFrozenTime()),
		MemoryBytes: int64(d.GetPagesWritten()+d.GetShpagesWritten()) * pageSize,
	}
}

// timesFrom are CRIU's figures of the last dump and of the restore.
func timesFrom(last, restored *stats.StatsEntry) *criuTimes {
	d, r := last.GetDump(), restored.GetRestore()
	return &criuTimes{
		FreezingSeconds: micros(d.GetFreezingTime()), FrozenSeconds: micros(d.GetFrozenTime()),
		MemdumpSeconds: micros(d.GetMemdumpTime()), MemwriteSeconds: micros(d.GetMemwriteTime()),
		RestoreSeconds: micros(r.GetRestoreTime()), ForkingSeconds: micros(r.GetForkingTime()),
		PagesRestored: int64(r.GetPagesRestored()),
	}
}
