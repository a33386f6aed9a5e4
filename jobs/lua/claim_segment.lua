-- Lease a due segment: never begun (score 0), released, or with an expired lease.
local id, worker, lease_ms, token, owner_fence = unpack(ARGV)
local split, due = key('split', id), key('segments', id)
local status, newest, cancel = unpack(redis.call('HMGET', key('job', id), 'status', 'fence', 'cancel_requested'))
if owner_fence ~= '' and (status ~= 'running' or newest ~= owner_fence) then return {'lost'} end
if not status or is_over(status) or cancel == '1' or redis.call('EXISTS', split) == 0 then return {'none'} end

-- A repeated call (lost reply) finds its own lease.
local number = redis.call('HGET', split, 'token:' .. token)
if not number then
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', NOW)) do
    local begun = tonumber(redis.call('HGET', split, 'begun:' .. each) or '0')
    -- Segments that a helper lost are left to the owner, whose attempts are counted and limited.
    if owner_fence ~= '' or begun == 0 then
      if not number or tonumber(each) < tonumber(number) then number = each end
    end
  end
  if not number then return {'none'} end
  redis.call('HSET', split, 'token:' .. token, number, 'held:' .. number, redis.call('HINCRBY', split, 'fence', 1),
    'worker:' .. number, worker, 'progress:' .. number, '0', 'began:' .. number, NOW,
    'gpu:' .. number, has_gpu(worker) and '1' or '0')
  redis.call('HINCRBY', split, 'begun:' .. number, 1)
end
redis.call('ZADD', due, NOW + tonumber(lease_ms), number)
local fence, begun = unpack(redis.call('HMGET', split, 'held:' .. number, 'begun:' .. number))
return {'ok', tonumber(number), tonumber(fence), tonumber(begun)}
