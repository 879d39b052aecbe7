// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
	pingcap "github.com/pingcap/failpoint"
)

// At marks a step.
func At(name string) { registry.at(name) }

// In marks one step of several that share a line of code.
func In(step, of string) { registry.at(step + "-" + of) }

var registry = &points{dir: dir(), terms: map[string]string{}}

func dir() string {
	if d := os.Getenv(EnvDir); d != "" {
		return d
	}
	return Dir
}

// points remembers the terms that are in force, since the library counts how
// often each of them was used.
type points struct {
	dir   string
	mu    sync.Mutex
	terms map[string]string
}

func (p *points) at(name string) {
	if !p.chosen(name) {
		return
	}
	if err := p.hold(name); err != nil {
		complain(name, err)
	}
}

// chosen says whether the terms want the program to hold here. Other actions,
// such as panic, have happened when it returns.
func (p *points) chosen(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		delete(p.terms, name)
		return false
	}
	if terms := strings.TrimSpace(string(data)); p.terms[name] != terms {
		if err := pingcap.Enable(name, terms); err != nil {
			complain(name, err)
			return false
		}
		p.terms[name] = terms
	}
	v, err := pingcap.Eval(name)
	return err == nil && v == Hold
}

// hold keeps the caller here until the test removes the file.
func (p *points) hold(name string) error {
	armed := filepath.Join(p.dir, name)
	held := armed + ".held"
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Add(p.dir); err != nil {
		return err
	}
	if err := os.WriteFile(armed+".pid", []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	if err := os.Rename(armed, held); err != nil {
		if os.IsNotExist(err) {
			return nil // another program was faster, or the test took it back
		}
		return err
	}
	for {
		if _, err := os.Stat(held); err != nil {
			return nil
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			return err
		}
	}
}

func complain(name string, err error) {
	fmt.Fprintf(os.Stderr, "failpoint %s: %v\n", name, err)
}
