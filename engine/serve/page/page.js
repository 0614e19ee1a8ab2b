'use strict';

const $ = id => document.getElementById(id);
const source = $('source'), result = $('result'), stage = $('stage');

const STATUS_MS = 4000;  // without a word from the server for so long, the connection is lost
const HEARTBEAT_MS = 3000;
const ADAPT_MS = 1000;
const LEAST_RATE = 12;  // frames per second: with fewer, waiting for the next one makes the picture older
const START_KBITS = 2500;  // browsers begin with 300 and a small picture

const state = {
  stream: null,      // what is sent
  connection: null,
  channel: null,
  watch: null,       // link to watch
  watching: null,    // the token of what this page only watches
  heard: 0,
  tries: 0,
  retry: 0,
  recorder: null,
  upload: null,
  server: {},        // the latest status
  shown: [],         // when frames were shown, and how long they took from the network
  counted: {received: 0, dropped: 0},
  limit: 0,          // frames per second that are sent, 0: all
};

// --- words ---

const say = text => { $('said').textContent = text; };
const trouble = text => { $('trouble').textContent = text; $('trouble').hidden = !text; };

const CAMERA_TROUBLE = {
  NotAllowedError: 'The browser may not use the camera. Allow it (in the address bar), then press Camera again.',
  NotFoundError: 'No camera was found. Connect one, or choose a video file.',
  NotReadableError: 'The camera can not be read: another program is using it.',
  OverconstrainedError: 'The camera has no picture of a usual size.',
};

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('The server does not answer.');
  }
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(told.error || `The server answers ${response.status}.`), {status: response.status});
  return told;
}

const post = (path, body) =>
  ask(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});

// --- the source ---

async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error('Browsers give the camera to pages over https and from this machine only.');
  }
  const video = {width: {ideal: 640}, height: {ideal: 360}, frameRate: {ideal: 30}};
  try {
    return await navigator.mediaDevices.getUserMedia({video, audio: $('sound').checked});
  } catch (error) {
    throw new Error(CAMERA_TROUBLE[error.name] || `The camera can not be used: ${error.message}`);
  }
}

async function openFile(file) {
  const player = document.createElement('video');
  player.src = URL.createObjectURL(file);
  player.loop = true;
  player.muted = !$('sound').checked;
  const capture = player.captureStream || player.mozCaptureStream;
  if (!capture) throw new Error('This browser can not send a video file live. Upload it below.');
  try {
    await player.play();
  } catch {
    throw new Error('This browser can not play that file. Upload it below: it is translated there.');
  }
  const stream = capture.call(player);
  stream.player = player;
  return stream;
}

async function start(open) {
  stop();
  trouble('');
  try {
    state.stream = await open();
  } catch (error) {
    trouble(error.message);
    return;
  }
  source.srcObject = state.stream;
  for (const track of state.stream.getVideoTracks()) {
    track.contentHint = 'motion';
    track.onended = () => { stop(); trouble('The camera is gone. Connect it again, then press Camera.'); };
  }
  delete stage.dataset.empty;
  await connect();
}

function stop() {
  disconnect();
  clearTimeout(state.retry);
  if (state.stream) {
    for (const track of state.stream.getTracks()) { track.onended = null; track.stop(); }
    if (state.stream.player) { state.stream.player.pause(); URL.revokeObjectURL(state.stream.player.src); }
  }
  Object.assign(state, {stream: null, tries: 0, watch: null});
  source.srcObject = result.srcObject = null;
  stage.dataset.empty = '';
  $('figures').textContent = '';
  setRunning(false);
}

function setRunning(isRunning) {
  for (const id of ['stop', 'shot', 'record']) $(id).disabled = !isRunning;
  $('share').disabled = !isRunning || !state.watch;
}

// --- the connection ---

async function connect() {
  disconnect();
  const connection = state.connection = new RTCPeerConnection({iceServers: []});
  Object.assign(state, {heard: performance.now(), counted: {received: 0, dropped: 0}, limit: 0, server: {}});
  connection.ontrack = event => {
    if ('jitterBufferTarget' in event.receiver) event.receiver.jitterBufferTarget = 0;
    if ('playoutDelayHint' in event.receiver) event.receiver.playoutDelayHint = 0;
    if (event.track.kind === 'video' || !result.srcObject) result.srcObject = event.streams[0] || new MediaStream([event.track]);
    else if (!result.srcObject.getTracks().includes(event.track)) result.srcObject.addTrack(event.track);
    result.muted = !$('sound').checked;
    result.play().catch(() => {});
  };
  connection.onconnectionstatechange = () => {
    if (connection === state.connection && connection.connectionState === 'failed') lost();
  };
  if (state.watching) {
    connection.addTransceiver('video', {direction: 'recvonly'});
    connection.addTransceiver('audio', {direction: 'recvonly'});
  } else {
    for (const track of state.stream.getTracks()) connection.addTrack(track, state.stream);
    listen(connection.createDataChannel('control'));
  }
  try {
    await connection.setLocalDescription(await connection.createOffer());
    await gathered(connection);
    const {sdp, type} = connection.localDescription;
    const answer = await post('/offer', state.watching ? {sdp, type, watch: state.watching} : {sdp, type});
    if (connection !== state.connection) return;
    await connection.setRemoteDescription({type: answer.type, sdp: quickly(answer.sdp)});
    for (const sender of connection.getSenders()) {
      if (!sender.track || sender.track.kind !== 'video') continue;
      const parameters = sender.getParameters();
      parameters.degradationPreference = 'maintain-resolution';
      await sender.setParameters(parameters).catch(() => {});
    }
    if (answer.watch) state.watch = `${location.origin}/#watch=${answer.watch}`;
    state.tries = 0;
    trouble('');
    delete stage.dataset.empty;
    setRunning(true);
  } catch (error) {
    if (connection !== state.connection) return;
    if (error.status && error.status !== 503) {
      trouble(error.message);
      disconnect();
      setRunning(false);
    } else {
      lost(error.message);
    }
  }
}

function gathered(connection) {
  if (connection.iceGatheringState === 'complete') return Promise.resolve();
  return new Promise(done => {
    const end = () => { if (connection.iceGatheringState === 'complete') done(); };
    connection.addEventListener('icegatheringstatechange', end);
    setTimeout(done, 2000);
  });
}

// Sends no more frames than the server takes: encoding, sending and decoding the others would slow these down.
async function adapt() {
  const {received = 0, dropped = 0} = state.server, before = state.counted;
  state.counted = {received, dropped};
  const sender = state.connection && state.connection.getSenders().find(one => one.track && one.track.kind === 'video');
  if (!sender || received <= before.received) return;
  const arrived = received - before.received, lost = (dropped - before.dropped) / arrived;
  const taken = 1000 * arrived * (1 - lost) / ADAPT_MS;
  if (lost > 0.15) state.limit = Math.max(LEAST_RATE, 1.1 * taken);
  else if (state.limit && lost < 0.05) state.limit *= 1.15;
  else return;
  if (state.limit > 120) state.limit = 0;
  const parameters = sender.getParameters();
  if (!parameters.encodings || !parameters.encodings.length) return;
  if (state.limit) parameters.encodings[0].maxFramerate = state.limit;
  else delete parameters.encodings[0].maxFramerate;
  await sender.setParameters(parameters).catch(() => {});
}

setInterval(adapt, ADAPT_MS);

// Lets the browser begin with a good picture.
const quickly = sdp => sdp.replace(/^(a=fmtp:\d+ .*packetization-mode=1.*)$/gm, `$1;x-google-start-bitrate=${START_KBITS}`);

function listen(channel) {
  state.channel = channel;
  channel.onopen = () => {
    control({strength: Number($('strength').value), style: chosenStyle()});
  };
  channel.onmessage = event => {
    state.heard = performance.now();
    state.server = JSON.parse(event.data);
    if (state.server.failure) trouble(`The server can not translate this: ${state.server.failure}`);
  };
}

function control(told) {
  if (state.channel && state.channel.readyState === 'open') state.channel.send(JSON.stringify(told));
}

function disconnect() {
  const connection = state.connection;
  state.connection = state.channel = null;
  state.shown = [];
  if (connection) connection.close();
}

function lost(reason = 'The connection is lost.') {
  disconnect();
  if (!state.stream && !state.watching) return;
  const seconds = Math.min(10, 2 ** state.tries++);
  trouble(`${reason} Trying again in ${seconds} s.`);
  clearTimeout(state.retry);
  state.retry = setTimeout(connect, 1000 * seconds);
}

setInterval(() => control({}), HEARTBEAT_MS);

setInterval(async () => {
  const connection = state.connection;
  if (!connection) return;
  if (state.channel && performance.now() - state.heard > STATUS_MS) { lost(); return; }
  if (state.watching && ['disconnected', 'closed'].includes(connection.connectionState)) { lost(); return; }
  for (const report of (await connection.getStats()).values()) {
    if (report.type === 'outbound-rtp' && report.kind === 'video' && report.framesEncoded) {
      state.encodeMs = 1000 * report.totalEncodeTime / report.framesEncoded;
      if (report.framesPerSecond) state.intervalMs = 1000 / report.framesPerSecond;
    }
    if (report.type === 'candidate-pair' && report.nominated && report.currentRoundTripTime !== undefined) {
      state.roundTripMs = 1000 * report.currentRoundTripTime;
    }
  }
  showFigures();
}, 500);

// --- the picture ---

if ('requestVideoFrameCallback' in HTMLVideoElement.prototype) {
  const count = (now, frame) => {
    const received = frame.receiveTime || now;
    state.shown.push({at: now, lateMs: Math.max(0, frame.expectedDisplayTime - received)});
    while (state.shown.length && state.shown[0].at < now - 2000) state.shown.shift();
    result.requestVideoFrameCallback(count);
  };
  result.requestVideoFrameCallback(count);
}

// The age of the picture: encoding here, the network both ways, the server, and decoding here. The server has a frame
// when the next one begins to arrive.
function ageMs() {
  if (!state.shown.length || !state.server.server_ms) return null;
  const late = state.shown.map(frame => frame.lateMs).sort((a, b) => a - b);
  return (state.encodeMs || 0) + (state.intervalMs || 0) + (state.roundTripMs || 0) + state.server.server_ms + late[late.length >> 1];
}

function showFigures() {
  const frames = state.shown;
  const seconds = frames.length > 1 ? (frames[frames.length - 1].at - frames[0].at) / 1000 : 0;
  const words = [];
  if (seconds) words.push(`${((frames.length - 1) / seconds).toFixed(0)} frames/s`);
  const age = ageMs();
  if (age !== null) words.push(`picture ${age.toFixed(0)} ms old`);
  if (state.server.preparing) words.push('making the style ready');
  else if (state.server.engine) words.push(state.server.engine);
  if (state.server.viewers > 1) words.push(`${state.server.viewers} viewers`);
  $('figures').textContent = words.join(' · ');
}

function placeDivider() {
  const share = Number($('divider').value);
  const left = $('mirror').checked ? 0 : share, right = $('mirror').checked ? share : 0;
  result.style.clipPath = `inset(0 ${right}% 0 ${left}%)`;
}

function download(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const stamp = () => new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-');

function screenshot() {
  const canvas = document.createElement('canvas');
  canvas.width = result.videoWidth;
  canvas.height = result.videoHeight;
  if (!canvas.width) return;
  canvas.getContext('2d').drawImage(result, 0, 0);
  canvas.toBlob(blob => { download(blob, `streamgan-${stamp()}.png`); say('The screenshot is saved.'); });
}

function record() {
  if (state.recorder) { state.recorder.stop(); return; }
  if (!result.srcObject) return;
  const pieces = [];
  const recorder = state.recorder = new MediaRecorder(result.srcObject);
  recorder.ondataavailable = event => pieces.push(event.data);
  recorder.onstop = () => {
    state.recorder = null;
    $('record').setAttribute('aria-pressed', 'false');
    $('record').textContent = 'Record';
    download(new Blob(pieces, {type: recorder.mimeType}), `streamgan-${stamp()}.webm`);
    say('The recording is saved.');
  };
  recorder.start(1000);
  $('record').setAttribute('aria-pressed', 'true');
  $('record').textContent = 'End recording';
}

// --- styles ---

const chosenStyle = () => Number((document.querySelector('#styles input:checked') || {value: 0}).value);

async function showStyles() {
  const styles = await ask('/styles');
  styles.forEach((style, number) => {
    const label = document.createElement('label'), input = document.createElement('input');
    const picture = document.createElement('img'), name = document.createElement('span');
    label.className = 'style';
    Object.assign(input, {type: 'radio', name: 'style', value: number, checked: number === 0});
    Object.assign(picture, {src: `/styles/${number}/picture`, alt: '', title: style.description});
    name.textContent = style.name;
    input.onchange = () => control({style: number});
    label.append(input, picture, name);
    $('styles').append(label);
  });
}

// --- whole videos ---

function send(file) {
  const request = new XMLHttpRequest();  // tells its progress, which fetch does not
  request.open('POST', `/uploads?name=${encodeURIComponent(file.name)}&style=${chosenStyle()}`);
  request.responseType = 'json';
  showJob('Uploading', 0);
  request.upload.onprogress = event => showJob('Uploading', event.loaded / event.total);
  request.onerror = () => showJob('The upload failed: the server does not take it.', null);
  request.onload = () => {
    if (request.status !== 201) { showJob((request.response || {}).error || 'The upload failed.', null); return; }
    state.upload = request.response.upload;
    $('discard').hidden = false;
    follow();
  };
  $('download').hidden = true;
  request.send(file);
}

async function follow() {
  const upload = state.upload;
  while (state.upload === upload) {
    let job;
    try {
      job = await ask(`/uploads/${upload}`);
    } catch (error) {
      if (error.status) { showJob(error.message, null); return; }
      job = {state: 'unknown'};
    }
    if (job.state === 'done') {
      showJob('Done.', null);
      Object.assign($('download'), {href: `/uploads/${upload}/result`, hidden: false});
      return;
    }
    if (job.state === 'failed') { showJob(`It failed: ${job.error}`, null); return; }
    const words = {checking: 'Checking', waiting: 'Waiting for its turn', unknown: 'The server does not answer'};
    const share = job.total ? job.done / job.total : 0;
    showJob(words[job.state] || `Translating: ${job.done} of ${job.total || '?'} frames`, share);
    await new Promise(done => setTimeout(done, 500));
  }
}

function showJob(words, share) {
  $('job').textContent = words;
  $('progress').hidden = share === null;
  $('progress').value = share || 0;
}

async function discard() {
  const upload = state.upload;
  state.upload = null;
  $('discard').hidden = $('download').hidden = true;
  showJob('', null);
  await ask(`/uploads/${upload}`, {method: 'DELETE'}).catch(() => {});
}

// --- the page ---

async function begin() {
  const told = new URLSearchParams(location.hash.slice(1));
  try {
    if (told.get('token')) await post('/login', {token: told.get('token')});
  } catch (error) {
    trouble(error.message);
    return;
  }
  state.watching = told.get('watch');
  if (told.get('token')) history.replaceState(null, '', state.watching ? `/#watch=${state.watching}` : '/');
  try {
    await showStyles();
  } catch (error) {
    trouble(error.message);
    return;
  }
  if (state.watching) {
    $('controls').hidden = $('files').hidden = $('divider').hidden = true;
    await connect();
  }
}

$('camera').onclick = () => start(openCamera);
$('open').onclick = () => $('file').click();
$('file').onchange = event => { if (event.target.files[0]) start(() => openFile(event.target.files[0])); };
$('stop').onclick = () => { stop(); trouble(''); };
$('shot').onclick = screenshot;
$('record').onclick = record;
$('share').onclick = async () => {
  await navigator.clipboard.writeText(state.watch).then(() => say('The link is copied: whoever opens it sees the result.'),
    () => say(state.watch));
};
$('strength').oninput = () => control({strength: Number($('strength').value)});
$('mirror').onchange = () => { stage.classList.toggle('mirrored', $('mirror').checked); placeDivider(); };
$('sound').onchange = () => { result.muted = !$('sound').checked; };
$('divider').oninput = placeDivider;
$('upload').onclick = () => $('whole').click();
$('whole').onchange = event => { if (event.target.files[0]) send(event.target.files[0]); };
$('discard').onclick = discard;
addEventListener('pagehide', () => disconnect());
placeDivider();
begin();
