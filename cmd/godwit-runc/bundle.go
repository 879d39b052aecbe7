// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Annotations that containerd's CRI plugin writes into a container's
// configuration, and ours, which it copies from the pod.
const (
	annotationType      = "io.kubernetes.cri.container-type"
	annotationSandbox   = "io.kubernetes.cri.sandbox-id"
	annotationPodUID    = "io.kubernetes.cri.sandbox-uid"
	annotationName      = "io.kubernetes.cri.container-name"
	annotationMigration = "godwit.dev/migration"
	// annotationCRIU lets runc read a CRIU configuration, whose action scripts
	// run as root on the node.
	annotationCRIU = "org.criu.config"

	// gateName is the name of the init container that holds a target pod back.
	gateName = "godwit-gate"
	// maxConfig is the largest config.json that is read, in bytes.
	maxConfig = 16 << 20
)

var (
	// errBundle: the container's configuration cannot be used.
	errBundle = errors.New("bundle")
	// errCRIUConfig: the container brings a configuration for CRIU. It must not
	// be created under the wrapper at all.
	errCRIUConfig = errors.New("the annotation " + annotationCRIU + " is not allowed under this runtime")
)

// bundle is what the wrapper needs of a container's config.json.
type bundle struct {
	Annotations map[string]string `json:"annotations"`
	Process     struct {
		Terminal bool `json:"terminal"`
	} `json:"process"`
	Root struct {
		Path     string `json:"path"`
		Readonly bool   `json:"readonly"`
	} `json:"root"`
	Linux struct {
		CgroupsPath string `json:"cgroupsPath"`
		Resources   struct {
			CPU struct {
				Quota int64 `json:"quota"`
			} `json:"cpu"`
			Memory struct {
				Limit int64 `json:"limit"`
			} `json:"memory"`
		} `json:"resources"`
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
	} `json:"linux"`
}

// limited says whether a restore could run into the container's limits.
func (b *bundle) limited() bool {
	return b.Linux.Resources.CPU.Quota > 0 || b.Linux.Resources.Memory.Limit > 0
}

func readBundle(dir string) (*bundle, error) {
	f, err := os.Open(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBundle, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBundle, err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%w: config.json is too large", errBundle)
	}
	b := &bundle{}
	if err := json.Unmarshal(data, b); err != nil {
		return nil, fmt.Errorf("%w: config.json: %w", errBundle, err)
	}
	if !filepath.IsAbs(b.Root.Path) {
		b.Root.Path = filepath.Join(dir, b.Root.Path)
	}
	return b, nil
}

// identity of a container of a pod.
type identity struct{ podUID, container, sandbox string }

// identify says whether this is a container that could be restored at all: one
// of a pod, neither the sandbox's own nor the gate.
func (b *bundle) identify() (identity, bool, error) {
	id := identity{b.Annotations[annotationPodUID], b.Annotations[annotationName], b.Annotations[annotationSandbox]}
	if b.Annotations[annotationType] != "container" || id.container == gateName {
		return id, false, nil
	}
	// They become parts of a path.
	for _, s := range []string{id.podUID, id.container} {
		if s == "" || s == "." || s == ".." || len(s) > 255 || strings.ContainsAny(s, "/\x00") {
			return id, false, fmt.Errorf("%w: pod UID %q, container %q", errBundle, id.podUID, id.container)
		}
	}
	return id, true, nil
}

// migrating says whether the pod claims to belong to a migration. It is a
// reason to refuse, never to restore.
func (b *bundle) migrating() bool { return b.Annotations[annotationMigration] != "" }

// restorable says why a container cannot be restored whatever the agent wants.
func (b *bundle) restorable(a createArgs) error {
	switch {
	case a.consoleSocket != "" || b.Process.Terminal:
		return fmt.Errorf("%w: a container with a terminal cannot be restored", errBundle)
	case len(a.unknown) > 0:
		return fmt.Errorf("%w: cannot restore with %s", errBundle, strings.Join(a.unknown, " "))
	}
	return nil
}

// configuresCRIU says whether runc would read a configuration for CRIU that the
// pod's author has named, had it to restore the container. (Under the wrapper a
// container gets there only if the node passes on annotations of all names, or
// of this one.)
func (b *bundle) configuresCRIU() bool {
	for name := range b.Annotations {
		if name == annotationCRIU || strings.HasPrefix(name, annotationCRIU+"/") {
			return true
		}
	}
	return false
}
