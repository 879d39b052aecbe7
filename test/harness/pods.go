// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podTimeout is how long a pod may take to start on an emulated node.
const podTimeout = 3 * time.Minute

// LabelApp selects a workload's pods.
const LabelApp = "app"

// Pod describes a pod with one container, "main", and nothing else.
func Pod(namespace, name, image string, env ...corev1.EnvVar) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{LabelApp: name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(3)),
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Env: env,
			}},
		},
	}
}

// Env makes environment variables of "NAME=value" strings.
func Env(pairs ...string) []corev1.EnvVar {
	var env []corev1.EnvVar
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		env = append(env, corev1.EnvVar{Name: name, Value: value})
	}
	return env
}

// Service describes a Service in front of a workload's pods.
func Service(namespace, name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{LabelApp: name},
			Ports:    []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(port)}},
		},
	}
}

// Start creates a pod and returns it once it is ready.
func (h *Harness) Start(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	if err := h.Create(ctx, pod); err != nil {
		return nil, fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	return pod, h.AwaitPodReady(ctx, pod)
}

// AwaitPodReady returns when the pod is ready, and fails when it has ended.
func (h *Harness) AwaitPodReady(ctx context.Context, pod *corev1.Pod) error {
	return h.AwaitFor(ctx, podTimeout, pod, "pod "+pod.Name+" to be ready", func(exists bool) (bool, error) {
		if !exists {
			return false, fmt.Errorf("pod %s is gone", pod.Name)
		}
		if p := pod.Status.Phase; p == corev1.PodFailed || p == corev1.PodSucceeded {
			return false, fmt.Errorf("pod %s has ended: %s %s", pod.Name, p, pod.Status.Message)
		}
		return Ready(pod), nil
	})
}

// AwaitPodGone returns when the pod object, or at least the one with this UID,
// is gone.
func (h *Harness) AwaitPodGone(ctx context.Context, pod *corev1.Pod) error {
	uid := pod.UID
	return h.AwaitFor(ctx, podTimeout, pod, "pod "+pod.Name+" to be gone", func(exists bool) (bool, error) {
		return !exists || pod.UID != uid, nil
	})
}

// GetPod reads a pod.
func (h *Harness) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	return pod, h.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
}

// Ready says whether the pod has the Ready condition.
func Ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Restarts is how often the pod's containers were restarted.
func Restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, s := range pod.Status.ContainerStatuses {
		n += s.RestartCount
	}
	return n
}

// ContainerID is the runtime's id of the pod's first container, without scheme.
func ContainerID(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
			return id
		}
	}
	return ""
}
