// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	_ "embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

const (
	// DiskDriver is the name of the CSI driver of test/disks.
	DiskDriver = "disks.test.godwit.dev"
	// DiskNamespace is where its pods run.
	DiskNamespace = "godwit-disks"
	// DiskMiB is the size of a disk. What has never been written takes no space.
	DiskMiB = 256

	// disksDir is the disks' directory on the file server. No migration has such a
	// name, so that no agent sweeps it away.
	disksDir = ".disks"
	// labelDisks on a volume is the storage class it was made for.
	labelDisks = "godwit.dev/test-disks"
)

//go:embed disks.yaml
var diskManifest string

// InstallDisks installs the driver of ReadWriteOnce volumes, or a newer one, and returns
// when kubelet has taken it on every node. The volumes are attached and detached by
// kube-controller-manager. A second call costs little.
func (h *Harness) InstallDisks(ctx context.Context) error {
	digest, err := h.imageDigest(ctx, h.Disks)
	if err != nil {
		return err
	}
	server, err := h.fileServer(ctx)
	if err != nil {
		return err
	}
	manifest, err := renderDisks(h.Disks, digest, server)
	if err != nil {
		return err
	}
	if _, err := h.KubectlApply(ctx, manifest); err != nil {
		return err
	}
	drivers := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: DiskNamespace, Name: "disks"}}
	if err := h.AwaitFor(ctx, podTimeout, drivers, "the driver of disks", func(exists bool) (bool, error) {
		s := drivers.Status
		return exists && s.ObservedGeneration >= drivers.Generation && int(s.DesiredNumberScheduled) == len(h.Nodes.Nodes()) &&
			s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled, nil
	}); err != nil {
		return err
	}
	for _, n := range h.Nodes.Nodes() {
		node := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
		if err := h.AwaitFor(ctx, time.Minute, node, "node "+n.Name+" to have the driver of disks", func(exists bool) (bool, error) {
			return exists && slices.ContainsFunc(node.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == DiskDriver }), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func renderDisks(image, digest string, server *corev1.NFSVolumeSource) (string, error) {
	t, err := template.New("disks").Option("missingkey=error").Parse(diskManifest)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, map[string]any{
		"Driver": DiskDriver, "Namespace": DiskNamespace, "Dir": disksDir, "Image": image, "Digest": digest, "Server": server,
	})
	return out.String(), err
}

// fileServer is where the shared volume is, beside whose files the disks are.
func (h *Harness) fileServer(ctx context.Context) (*corev1.NFSVolumeSource, error) {
	v := &corev1.PersistentVolume{}
	if err := h.Get(ctx, client.ObjectKey{Name: clusterclient.StorageClass}, v); err != nil {
		return nil, err
	}
	if v.Spec.NFS == nil {
		return nil, fmt.Errorf("volume %s is on no file server", v.Name)
	}
	return v.Spec.NFS, nil
}

// MakeDisks makes n empty ReadWriteOnce volumes of a storage class. Claims of that class,
// those of a StatefulSet's templates for instance, get one each; pods that do not run as
// root need an fsGroup to write into them. Volumes of that class that an earlier test has
// left behind are removed first, with what is on them; their claims have to be gone.
// Godwit has to be installed.
func (h *Harness) MakeDisks(ctx context.Context, class string, n int) error {
	if err := h.eraseDisks(ctx, class); err != nil {
		return err
	}
	for i := range n {
		name := class + "-" + strconv.Itoa(i)
		v := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelDisks: class}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity:    corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(DiskMiB<<20, resource.BinarySI)},
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
				// Nobody but MakeDisks deletes what is on them.
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
					Driver: DiskDriver, VolumeHandle: name, FSType: "ext4",
					VolumeAttributes: map[string]string{"size": strconv.Itoa(DiskMiB << 20)},
				}},
			},
		}
		if err := h.Create(ctx, v); err != nil {
			return fmt.Errorf("create volume %s: %w", name, err)
		}
		// A claim that finds none looks again some time later.
		if err := h.AwaitFor(ctx, time.Minute, v, "volume "+name+" to be free", func(bool) (bool, error) {
			return v.Status.Phase == corev1.VolumeAvailable, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// DeleteDisks deletes the volumes of a storage class and does not wait: each goes once
// its claim has gone and no node has it attached.
func (h *Harness) DeleteDisks(ctx context.Context, class string) error {
	return h.DeleteAllOf(ctx, &corev1.PersistentVolume{}, client.MatchingLabels{labelDisks: class})
}

// eraseDisks deletes the volumes of a storage class, waits until they are gone, and
// deletes their files.
func (h *Harness) eraseDisks(ctx context.Context, class string) error {
	var volumes corev1.PersistentVolumeList
	if err := h.List(ctx, &volumes, client.MatchingLabels{labelDisks: class}); err != nil {
		return err
	}
	if err := h.DeleteDisks(ctx, class); err != nil {
		return err
	}
	for i := range volumes.Items {
		v := &volumes.Items[i]
		if err := h.AwaitFor(ctx, podTimeout, v, "volume "+v.Name+" to be gone", func(exists bool) (bool, error) { return !exists, nil }); err != nil {
			return err
		}
	}
	_, err := h.Nodes.Nodes()[0].Output(ctx, "rm -f "+path.Join(ImagesDir, disksDir, class)+"-[0-9]*")
	return err
}
