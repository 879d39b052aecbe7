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
func (m *merge) makeWay(t *task) (err error) {
	was := m.tasks[t.id]
	for _, name := range []string{mergedName, extraName} {
		if err := os.MkdirAll(filepath.Join(m.dir, name), 0o700); err != nil {
			return err
		}
	}
	if len(was.Base) > 0 {
		name := m.pages(mergedName, t.id)
		if err := hasSize(name, pagemap.Bytes(was.Base)); err != nil {
			return err
		}
		if t.base, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	if err := m.store.room(max(0, t.plan.Size-pagemap.Bytes(was.Extra))); err != nil {
		return err
	}
	name := m.pages(extraName, t.id)
	if t.extra, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := hasSize(name, pagemap.Bytes(was.Extra)); err != nil {
		return err
	}
	if moved := t.plan.Moved(); moved > 2*max(m.store.maxExtra, maxExtra) {
		return fmt.Errorf("%d bytes would have to be moved", moved)
	}
	return move(t.extra, t.plan)
}

func (t *task) close() error {
	var errs []error
	for _, f := range []*os.File{t.base, t.extra} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// settle is called between the dumps. It makes the first memory of a process its base,
// and a new base when there is much that the one there is has not, or does not need.
func (m *merge) settle(id uint64, of pagemap.Memory) (pagemap.Memory, error) {
	base, extra := m.pages(mergedName, id), m.pages(extraName, id)
	if len(of.Base) == 0 {
		if err := os.Rename(extra, base); err != nil {
			return of, err
		}
		return pagemap.Memory{Base: of.Extra, Live: of.Live}, os.WriteFile(extra, nil, 0o600)
	}
	has, more, needs := pagemap.Bytes(of.Base), pagemap.Bytes(of.Extra), pagemap.Bytes(of.Live)
	if more <= m.store.maxExtra && has+more <= 2*needs {
		return of, nil
	}
	if err := m.store.room(needs); err != nil {
		return of, err
	}
	fromBase, fromExtra, err := of.Whole()
	if err != nil {
		return of, err
	}
	next := base + ".new"
	to, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return of, err
	}
	err = errors.Join(transfer(to, base, fromBase), transfer(to, extra, fromExtra), to.Close())
	if err == nil {
		err = os.Rename(next, base)
	}
	if err == nil {
		err = os.Truncate(extra, 0)
	}
	return pagemap.Memory{Base: of.Live, Live: of.Live}, err
}

// pages is the file with the pages of a process in one of the directories.
func (m *merge) pages(name string, id uint64) string {
	return filepath.Join(m.dir, name, pagesName(id))
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
func transfer(to *os.File, name string, moves []pagemap.Move) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
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
