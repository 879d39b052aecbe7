// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/distribution/reference"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"godwit.dev/godwit/node-agent/runtime"
)

// Labels and annotations that containerd's CRI service writes.
const (
	labelKind          = "io.cri-containerd.kind"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	kindSandbox   = "sandbox"
	kindContainer = "container"

	annotationSandboxID = "io.kubernetes.cri.sandbox-id"
	extensionSandbox    = "io.cri-containerd.sandbox.metadata"
)

// uid is the form of what may go into a filter expression.
var uid = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// Containers returns the containers of the pod that run now, ordered by name.
// In a pod that has come to run its application these are its application
// containers and its sidecars; other init containers have ended by then.
func (r *Runtime) Containers(ctx context.Context, podUID string) ([]runtime.Container, error) {
	if !uid.MatchString(podUID) {
		return nil, fmt.Errorf("%w: %q is not the UID of a pod", runtime.ErrNotFound, podUID)
	}
	filter := fmt.Sprintf("labels.%q==%s,labels.%q==%s", labelPodUID, strconv.Quote(podUID), labelKind, kindContainer)
	records, err := r.client.ContainerService().List(r.context(ctx), filter)
	if err != nil {
		return nil, fmt.Errorf("list the containers of pod %s: %w", podUID, err)
	}
	var found []runtime.Container
	for _, rec := range records {
		c, err := r.inspect(ctx, rec)
		if errors.Is(err, runtime.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: no container of pod %s runs here", runtime.ErrNotFound, podUID)
	}
	slices.SortFunc(found, func(a, b runtime.Container) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// Container returns the container with this id.
func (r *Runtime) Container(ctx context.Context, id string) (runtime.Container, error) {
	rec, err := r.client.ContainerService().Get(r.context(ctx), id)
	if err != nil {
		return runtime.Container{}, notFound("container "+id, err)
	}
	if rec.Labels[labelKind] == kindSandbox {
		return runtime.Container{}, fmt.Errorf("%w: %s is a sandbox", runtime.ErrNotFound, id)
	}
	return r.inspect(ctx, rec)
}

// HasImage looks for the image under the name that containerd's CRI service
// gives it: with the default registry added, and without the tag when there is
// a digest too.
func (r *Runtime) HasImage(ctx context.Context, ref string) (bool, error) {
	names := []string{ref}
	if named, err := reference.ParseDockerRef(ref); err == nil && named.String() != ref {
		names = append(names, named.String())
	}
	for _, name := range names {
		_, err := r.client.ImageService().Get(r.context(ctx), name)
		if err == nil {
			return true, nil
		}
		if !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("look for image %s: %w", name, err)
		}
	}
	return false, nil
}

func (r *Runtime) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.o.Namespace)
}

// inspect gathers what is known of a container that runs.
func (r *Runtime) inspect(ctx context.Context, rec containers.Container) (runtime.Container, error) {
	c := runtime.Container{
		ID:     rec.ID,
		Name:   rec.Labels[labelContainerName],
		PodUID: rec.Labels[labelPodUID],
		Bundle: r.bundle(rec.ID),
		Image:  rec.Image,
	}
	pid, err := r.pid(ctx, rec.ID)
	if err != nil {
		return c, err
	}
	c.PID = pid
	var spec specs.Spec
	if err := json.Unmarshal(rec.Spec.GetValue(), &spec); err != nil {
		return c, fmt.Errorf("read the configuration of %s: %w", rec.ID, err)
	}
	c.ShmDir = shmSource(&spec)
	c.SandboxID = cmp.Or(rec.SandboxID, spec.Annotations[annotationSandboxID])
	if c.CgroupDir, err = r.cgroupDir(pid); err != nil {
		return c, err
	}
	if c.UpperDir, err = r.upperDir(ctx, rec, pid); err != nil {
		return c, err
	}
	if c.ImageDigest, err = r.digest(ctx, rec.Image); err != nil {
		return c, err
	}
	c.RuntimeHandler, err = r.handler(ctx, c.SandboxID)
	return c, err
}

// pid is the process id of a container's init process; ErrNotFound when it does
// not run.
func (r *Runtime) pid(ctx context.Context, id string) (int, error) {
	resp, err := r.client.TaskService().Get(r.context(ctx), &tasksapi.GetRequest{ContainerID: id})
	if err != nil {
		return 0, notFound("task of "+id, errgrpc.ToNative(err))
	}
	switch p := resp.GetProcess(); p.GetStatus() {
	case task.Status_RUNNING, task.Status_PAUSED, task.Status_PAUSING:
		return int(p.GetPid()), nil
	default:
		return 0, fmt.Errorf("%w: task of %s is %v", runtime.ErrNotFound, id, p.GetStatus())
	}
}

// digest is the digest of the manifest that an image name stands for, "" when
// the name has gone since.
func (r *Runtime) digest(ctx context.Context, name string) (string, error) {
	img, err := r.client.ImageService().Get(r.context(ctx), name)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for image %s: %w", name, err)
	}
	return img.Target.Digest.String(), nil
}

// handler is the runtime handler that a sandbox was asked to run with.
func (r *Runtime) handler(ctx context.Context, sandbox string) (string, error) {
	if sandbox == "" {
		return "", nil
	}
	rec, err := r.client.ContainerService().Get(r.context(ctx), sandbox)
	if err != nil {
		return "", notFound("sandbox "+sandbox, err)
	}
	return handlerOf(rec)
}

func handlerOf(rec containers.Container) (string, error) {
	ext, ok := rec.Extensions[extensionSandbox]
	if !ok {
		return "", nil
	}
	var meta struct {
		Metadata struct{ RuntimeHandler string }
	}
	if err := json.Unmarshal(ext.GetValue(), &meta); err != nil {
		return "", fmt.Errorf("read the metadata of sandbox %s: %w", rec.ID, err)
	}
	return meta.Metadata.RuntimeHandler, nil
}
