// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"godwit.dev/godwit/node-agent/runtime"
)

// Sentinel errors. Those about one file come wrapped in a *FileError.
var (
	// ErrDigestMismatch: the manifest on the volume is not the one the digest
	// was published for. Never restore; abort the migration.
	ErrDigestMismatch = errors.New("manifest digest mismatch")
	// ErrTampered: a file, a link or a directory is not what the manifest says,
	// or something lies there that must not. Never restore; abort the migration.
	ErrTampered = errors.New("image set was changed")
	// ErrManifest: the manifest cannot be understood. Never restore; abort.
	ErrManifest = errors.New("invalid manifest")
	// ErrMissing: a file or directory is not on the volume, also after waiting
	// for caches to settle. Abort the migration.
	ErrMissing = errors.New("missing on the volume")
	// ErrNoSpace: the volume is full. Nothing was lost; abort and let the source go on.
	ErrNoSpace = runtime.ErrNoSpace
	// ErrInvalidName: a migration UID, container name or round number that
	// cannot be part of a path. A mistake of the caller; do not retry.
	ErrInvalidName = errors.New("invalid name")
	// ErrFinished: the round was hashed as finished and must not be written
	// again. Remove it first.
	ErrFinished = errors.New("round is finished")
)

// FileError names the file an error is about.
type FileError struct {
	// Name is the path relative to the volume's root.
	Name string
	// Detail says what was found, "" when Err says it all.
	Detail string
	// Err is one of the sentinels or an error of the operating system.
	Err error
	// Kind tells what ErrTampered is about.
	Kind runtime.Refusal
}

var _ runtime.Refuser = (*FileError)(nil)

// Refusal implements runtime.Refuser.
func (e *FileError) Refusal() runtime.Refusal {
	switch {
	case errors.Is(e.Err, ErrTampered):
		return e.Kind
	case errors.Is(e.Err, ErrDigestMismatch):
		return runtime.RefusedDigest
	case errors.Is(e.Err, ErrManifest):
		return runtime.RefusedManifest
	case errors.Is(e.Err, ErrMissing):
		return runtime.RefusedMissing
	}
	return ""
}

// Error implements error.
func (e *FileError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Name, e.Err, e.Detail)
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

func tampered(name string, kind runtime.Refusal, format string, args ...any) error {
	return &FileError{Name: name, Kind: kind, Err: ErrTampered, Detail: fmt.Sprintf(format, args...)}
}

// wrap turns an operating system's error about name into this package's terms.
func wrap(name string, err error) error {
	var fe *FileError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fe), errors.Is(err, ErrNoSpace):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &FileError{Name: name, Err: ErrNoSpace, Detail: err.Error()}
	// openat2 answers ELOOP for a symbolic link and EXDEV for a way out.
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EXDEV):
		return tampered(name, runtime.RefusedType, "it is a link or leads elsewhere")
	case errors.Is(err, syscall.ENOTDIR):
		return tampered(name, runtime.RefusedType, "it is not a directory")
	}
	return &FileError{Name: name, Err: err}
}

// notThere says whether the name was not found, perhaps only because a cache of
// a network file system is behind.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE)
}
