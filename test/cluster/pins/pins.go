// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pins holds the versions of everything the cluster is made of.
package pins

import (
	_ "embed"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"
)

//go:embed versions.yaml
var file []byte

// Versions are the pinned versions, read from versions.yaml.
type Versions struct {
	// Kubernetes is the version of the module k8s.io/kubernetes.
	Kubernetes string `json:"kubernetes"`
	// Etcd is the version of the module go.etcd.io/etcd/server/v3.
	Etcd string `json:"etcd"`
	// Containerd is the version of the module github.com/containerd/containerd/v2.
	Containerd string `json:"containerd"`
	// Runc is the version of the module github.com/opencontainers/runc.
	Runc string `json:"runc"`
	// CNIPlugins is the version of the module github.com/containernetworking/plugins.
	CNIPlugins string `json:"cniPlugins"`
	// CoreDNS is the version of the module github.com/coredns/coredns.
	CoreDNS string `json:"coreDNS"`
	// DebianSuite is the code name of the nodes' Debian release.
	DebianSuite string `json:"debianSuite"`
	// CRIU is the upstream version of Debian's criu package.
	CRIU string `json:"criu"`
	// KernelSeries is the major and minor version of the nodes' kernel.
	KernelSeries string `json:"kernelSeries"`
}

var get = sync.OnceValues(func() (Versions, error) { return Parse(file) })

// Get returns the pinned versions. It panics if the embedded file is invalid,
// which a unit test excludes.
func Get() Versions {
	v, err := get()
	if err != nil {
		panic(err)
	}
	return v
}

// Parse reads versions from YAML. Every field must be there, none may be
// unknown, and module versions must begin with "v".
func Parse(content []byte) (Versions, error) {
	var v Versions
	if err := yaml.UnmarshalStrict(content, &v); err != nil {
		return Versions{}, fmt.Errorf("versions: %w", err)
	}
	fields := reflect.ValueOf(v)
	for i := range fields.NumField() {
		if fields.Field(i).String() == "" {
			return Versions{}, fmt.Errorf("versions: %s is missing", fields.Type().Field(i).Tag.Get("json"))
		}
	}
	for _, m := range []string{v.Kubernetes, v.Etcd, v.Containerd, v.Runc, v.CNIPlugins, v.CoreDNS} {
		if !strings.HasPrefix(m, "v") {
			return Versions{}, fmt.Errorf("versions: %q is not a module version", m)
		}
	}
	return v, nil
}
