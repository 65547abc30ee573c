// tile: rows of a matrix that lie row after row become tiles, whose rows lie item by item (weights/matrix.wgsl)
//   rows, tiles [whole number of rows, order.items] items of UNITS units     grid: ceil(items of all rows / 64), a thread an item
//   The last tile is lower where the rows do not fill it. Appended: units/*.

struct Order {
  items: u32,   // of a row
  height: u32,  // rows of a tile
}

@group(0) @binding(0) var<uniform> order: Order;
@group(0) @binding(1) var<storage, read> rows: array<Unit>;
@group(0) @binding(2) var<storage, read_write> tiles: array<Unit>;

override UNITS: u32;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let source = (id.y * count.x + id.x) * 64u + thread;
  let rowCount = arrayLength(&rows) / UNITS / order.items;
  let row = source / order.items;
  if (row >= rowCount) {
    return;
  }
  let first = row / order.height * order.height;
  let height = min(order.height, rowCount - first);
  let place = first * order.items + source % order.items * height + row - first;
  for (var k = 0u; k < UNITS; k++) {
    tiles[place * UNITS + k] = rows[source * UNITS + k];
  }
}
