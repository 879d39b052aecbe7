// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestEveryFileNamedByAPartIsMade(t *testing.T) {
	c, err := NewCredentials("test")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range Parts(Paths{Kubernetes: "/k", Etcd: "/e", CoreDNS: "/c", PKI: "/pki", Data: "/data"}) {
		for _, arg := range part.Args {
			_, name, ok := strings.Cut(arg, "=/pki/")
			if !ok {
				continue
			}
			if len(c.Files[name]) == 0 {
				t.Errorf("%s: %s names a file that nothing makes", part.Name, arg)
			}
		}
	}
}

func TestBootstrapIsValidYAML(t *testing.T) {
	out, err := Bootstrap(8)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, doc := range bytes.Split(out, []byte("\n---\n")) {
		var object struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal(doc, &object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if object.Kind == "" {
			continue // The comment before the first object.
		}
		if object.Metadata.Name == "" {
			t.Errorf("an object without a name:\n%s", doc)
		}
		kinds[object.Kind]++
	}
	if kinds["Node"] != 2 || kinds["PersistentVolume"] != 1 || kinds["EndpointSlice"] != 1 {
		t.Errorf("kinds %v", kinds)
	}
}

func TestConfigurationsAreValidYAML(t *testing.T) {
	var config struct {
		Mode   string `json:"mode"`
		Client struct {
			Kubeconfig string `json:"kubeconfig"`
		} `json:"clientConnection"`
	}
	if err := yaml.Unmarshal(ProxyConfig("h", "/k", "0.0.0.0"), &config); err != nil {
		t.Fatal(err)
	}
	if config.Mode != "nftables" || config.Client.Kubeconfig != "/k" {
		t.Errorf("%+v", config)
	}
}
