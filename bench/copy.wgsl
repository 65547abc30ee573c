// copy: y = x, a vec4u a thread     grid: n / 64     measures what kernels can move

@group(0) @binding(1) var<storage, read> x: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4u>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let at = workgroupNumber(id, count) * 64u + thread + begin();
  y[at] = x[at];
}
