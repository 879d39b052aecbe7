// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	root      = "../.."
	chart     = root + "/charts/godwit"
	namespace = "godwit-system"
)

// program returns the path in an environment variable, or skips the test.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("%s is not set; run the test with “make unit”", variable)
	}
	return path
}

// output runs a program and returns what it prints; stderr is part of the
// error.
func output(program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, &stderr)
	}
	return stdout.Bytes(), nil
}

// track opens every file of a directory, so that go test knows that the result
// depends on them: what a program that the test runs opens, it does not see.
func track(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// template renders the chart with settings in the form of --set.
func template(t *testing.T, settings ...string) ([]byte, error) {
	t.Helper()
	track(t, chart)
	args := []string{"template", "godwit", chart, "--namespace", namespace, "--kube-version", "1.37"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	return output(program(t, "HELM"), args...)
}

// objects is a set of manifests by "Kind/name".
type objects map[string]*unstructured.Unstructured

func parse(t *testing.T, manifests []byte) objects {
	t.Helper()
	found := make(objects)
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		var u unstructured.Unstructured
		if err := decoder.Decode(&u.Object); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		if len(u.Object) == 0 {
			continue
		}
		key := u.GetKind() + "/" + u.GetName()
		if _, twice := found[key]; twice {
			t.Errorf("%s comes twice", key)
		}
		found[key] = &u
	}
}

// render is template for settings that have to be accepted.
func render(t *testing.T, settings ...string) objects {
	t.Helper()
	out, err := template(t, settings...)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, out)
}

func kustomize(t *testing.T) ([]byte, objects) {
	t.Helper()
	track(t, root+"/config")
	out, err := output(program(t, "KUBECTL"), "kustomize", root+"/config/default")
	if err != nil {
		t.Fatal(err)
	}
	return out, parse(t, out)
}

// at follows field names and list indices into an object; it fails the test
// when there is nothing.
func at(t *testing.T, u *unstructured.Unstructured, path ...any) any {
	t.Helper()
	if u == nil {
		t.Fatalf("no object to look for %v in", path)
	}
	var v any = u.Object
	for i, step := range path {
		switch s := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[s]
		case int:
			l, _ := v.([]any)
			if s >= len(l) {
				t.Fatalf("%s/%s has no %v", u.GetKind(), u.GetName(), path[:i+1])
			}
			v = l[s]
		}
		if v == nil {
			t.Fatalf("%s/%s has no %v", u.GetKind(), u.GetName(), path[:i+1])
		}
	}
	return v
}
