// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"godwit.dev/godwit/node-agent/images/pagemap"
)

const (
	pagemapPrefix = "pagemap-"
	pagesPrefix   = "pages-"
	imageSuffix   = ".img"
	// maxPagemap is larger than the list of any process.
	maxPagemap = 256 << 20
)

// makeWay opens the merged memory of a process, in which everything that is kept has been
// moved to where it belongs.
func (m *merge) makeWay(t *task) (f *os.File, err error) {
	name := m.mergedPages(t.id)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	if len(t.plan.Kept) > 0 {
		if err := hasSize(name, pagemap.Bytes(m.tasks[t.id])); err != nil {
			return nil, err
		}
		if t.plan.Moved() <= m.store.maxMoved {
			if f, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
				return nil, err
			}
			if err := move(f, t.plan); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		}
	}
	if err := m.store.room(t.plan.Size); err != nil {
		return nil, err
	}
	next := name + ".new"
	if f, err = os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if len(t.plan.Kept) > 0 {
		old, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer old.Close()
		if err := transfer(f, old, t.plan.Kept); err != nil {
			return nil, err
		}
	}
	return f, os.Rename(next, name)
}

func (m *merge) mergedPages(id uint64) string {
	return filepath.Join(m.dir, mergedName, pagesName(id))
}

// move moves what has to give way, which is held in memory meanwhile.
func move(f *os.File, p *pagemap.Plan) error {
	held := make([]byte, p.Moved())
	rest := held
	moved := func(do func(b []byte, v pagemap.Move) error) error {
		rest = held
		for _, v := range p.Kept {
			if v.From == v.To {
				continue
			}
			if err := do(rest[:v.Bytes], v); err != nil {
				return err
			}
			rest = rest[v.Bytes:]
		}
		return nil
	}
	if err := moved(func(b []byte, v pagemap.Move) error { return readAt(f, b, v.From) }); err != nil {
		return err
	}
	return moved(func(b []byte, v pagemap.Move) error {
		_, err := f.WriteAt(b, v.To)
		return err
	})
}

// transfer copies ranges from one file to another.
func transfer(to, from *os.File, moves []pagemap.Move) error {
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	for _, v := range moves {
		for v.Bytes > 0 {
			part := (*buf)[:min(pieceSize, v.Bytes)]
			if err := readAt(from, part, v.From); err != nil {
				return err
			}
			if _, err := to.WriteAt(part, v.To); err != nil {
				return err
			}
			n := int64(len(part))
			v.From, v.To, v.Bytes = v.From+n, v.To+n, v.Bytes-n
		}
	}
	return nil
}

// hasSize says whether a file has exactly the pages that are listed of it.
func hasSize(file string, bytes int64) error {
	fi, err := os.Stat(file)
	if err == nil && fi.Size() != bytes {
		err = fmt.Errorf("%w: %s has %d bytes, not %d", pagemap.ErrMap, filepath.Base(file), fi.Size(), bytes)
	}
	return err
}

// taskOf is the number of the process whose list of memory has that name.
func taskOf(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, pagemapPrefix)
	if ok {
		digits, ok = strings.CutSuffix(digits, imageSuffix)
	}
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 32)
	return id, err == nil
}

func pagesName(id uint64) string { return pagesPrefix + strconv.FormatUint(id, 10) + imageSuffix }

func readMap(dir, name string) (*pagemap.Map, error) {
	path := filepath.Join(dir, name)
	if fi, err := os.Stat(path); err != nil || fi.Size() > maxPagemap {
		return nil, errors.Join(err, fmt.Errorf("%s is too large or not there", name))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := pagemap.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

func writeMap(dir string, id uint64, list *pagemap.Map) error {
	b, err := list.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, pagemapPrefix+strconv.FormatUint(id, 10)+imageSuffix), b, 0o600)
}
