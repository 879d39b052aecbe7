// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// ReadFiles calls visit for every entry of a package file's contents, in the
// order of the package. The reader is valid during the call only.
func ReadFiles(ctx context.Context, deb string, visit func(*tar.Header, io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = readTar(out, visit)
	if err != nil {
		// dpkg-deb would otherwise block on the pipe for ever.
		_ = out.Close()
		_ = cmd.Wait()
		return fmt.Errorf("%s: %w", deb, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb --fsys-tarfile %s: %w\n%s", deb, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

func readTar(r io.Reader, visit func(*tar.Header, io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			// Padding after the end marker has to be drained too.
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}
