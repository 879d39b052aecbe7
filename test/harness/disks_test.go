// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestTheDriversManifestIsWhatTheAPITakes(t *testing.T) {
	text, err := renderDisks("localhost/disks:dev", "sha256:0", &corev1.NFSVolumeSource{Server: "10.0.0.1", Path: "/images"})
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var drivers *appsv1.DaemonSet
	for i, document := range strings.Split(text, "\n---\n") {
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		if d, ok := object.(*appsv1.DaemonSet); ok {
			drivers = d
		}
	}
	volumes := map[string]corev1.Volume{}
	for _, v := range drivers.Spec.Template.Spec.Volumes {
		volumes[v.Name] = v
	}
	if nfs := volumes["server"].NFS; nfs == nil || nfs.Server != "10.0.0.1" || nfs.Path != "/images" {
		t.Errorf("the file server is %+v", nfs)
	}
	for _, c := range drivers.Spec.Template.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok {
				t.Errorf("container %s mounts %s, which is not there", c.Name, m.Name)
			}
		}
	}
}
